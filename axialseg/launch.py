"""Which devices a job runs on, and one process for each of them.

Hydra and the usual ways to start ranks do not go together: a rank that runs the command line again
is a sweep of its own, with parameters of its own. So a job on several devices is started once more,
by its composed config, through torch.distributed.run. Single runs, `-m` and every launcher and
sweeper then see one job with one set of parameters. Ranks that srun or torchrun has started are
left alone.
"""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from axialseg.config import conf_dir
from axialseg.errors import UserError
from axialseg.freed_memory import keep_freed_memory

# A launched rank writes its exit code and message here; torch.distributed.run would lose them.
EXIT_FILE = "AXIALSEG_EXIT_FILE"
RANK_VARIABLES = (
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
)
MISTAKE = 2  # exit code for a mistake of the user's


class Hardware(NamedTuple):
    """What `auto` stands for on this machine.

    Attributes:
        accelerator: cpu or gpu.
        devices: how many on this machine, or which.
        precision: Lightning's name.
        world_size: devices of all machines.
    """

    accelerator: str
    devices: int | list[int]
    precision: str
    world_size: int


Work = Callable[[DictConfig, Hardware, Path], None]


def run_on_devices(
    work: Work, module: str, cfg: DictConfig, folder: Path, batch_size: int | None
) -> float:
    """Does the work of one job in this process, or once more as ranks of their own.

    Args:
        work: writes `metrics.json` into the folder if there is anything to score.
        module: of the command, as for ``python -m``; ranks run it.
        cfg: composed config.
        folder: of the job.
        batch_size: see `resolve_hardware`.

    Returns:
        The model's objective in per cent (PQ, top-1 accuracy); NaN where there is no ground truth
        to score against.
    """
    hardware = resolve_hardware(cfg.trainer, batch_size)
    if hardware.world_size > 1 and started_ranks(os.environ) is None:
        run_on_ranks(module, folder, hardware.world_size)
    else:
        _work_alone(work, cfg, hardware, folder)
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return math.nan
    return float(json.loads(metrics.read_text())[cfg.model.objective])


def _work_alone(work: Work, cfg: DictConfig, hardware: Hardware, folder: Path) -> None:
    """Does the work here, and ends the W&B run with it: the next job of a sweep has its own."""
    exit_code = 1
    try:
        work(cfg, hardware, folder)
        exit_code = 0
    finally:
        if "wandb" in sys.modules:
            from axialseg.wandb_logging import finish_wandb

            finish_wandb(exit_code)


def resolve_hardware(trainer: DictConfig, batch_size: int | None) -> Hardware:
    """Replaces `auto` and checks that the devices exist and fit the ranks.

    Args:
        trainer: the config's `trainer` node.
        batch_size: images per step over all devices; `devices=auto` takes as many GPUs as share it
            evenly. None for evaluation.

    Raises:
        UserError: too few devices, or another number of ranks was started.
    """
    import torch

    gpus = torch.cuda.device_count()
    accelerator = trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator} is not one of auto, cpu, gpu")
    if accelerator == "gpu" and not gpus:
        raise UserError("trainer.accelerator=gpu, but no GPU is visible; use hardware=cpu")

    share = batch_size and batch_size // trainer.accumulate_grad_batches
    devices = _devices(trainer.devices, gpus if accelerator == "gpu" else 1, share)
    count = devices if isinstance(devices, int) else len(devices)
    if accelerator == "gpu" and count > gpus:
        raise UserError(f"trainer.devices={trainer.devices}, but {gpus} GPUs are visible")

    world_size = count * trainer.num_nodes
    if batch_size is not None:
        batch_size_per_rank(batch_size, world_size, trainer.accumulate_grad_batches)
    precision = trainer.precision
    if precision == "auto" and accelerator == "cpu":
        precision = "32-true"
    elif precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"

    started = started_ranks(os.environ)
    if started is not None and started != world_size:
        raise UserError(
            f"{started} ranks were started, but trainer.devices={trainer.devices} x "
            f"trainer.num_nodes={trainer.num_nodes} is {world_size}; make them equal"
        )
    if started is None and trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs ranks that srun (hardware=slurm) or "
            "torchrun has started on each machine"
        )
    return Hardware(accelerator, devices, precision, world_size)


def batch_size_per_rank(batch_size: int, world_size: int, accumulated: int) -> int:
    """Images of one forward pass on one device.

    Args:
        batch_size: images per optimiser step.
        world_size: devices of all machines.
        accumulated: forward passes per optimiser step.

    Raises:
        UserError: the batch can not be shared evenly.
    """
    per_rank, rest = divmod(batch_size, world_size * accumulated)
    if rest or not per_rank:
        raise UserError(
            f"schedule.batch_size={batch_size} can not be shared evenly by {world_size} devices x "
            f"trainer.accumulate_grad_batches={accumulated}; give a multiple of "
            f"{world_size * accumulated}"
        )
    return per_rank


def configure_torch(hardware: Hardware) -> None:
    """Threads and memory on a CPU, matrix products in TensorFloat-32 on a GPU."""
    import torch

    if hardware.accelerator == "gpu":
        torch.set_float32_matmul_precision("high")
        return
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpu_count())


def check_compiler() -> None:
    """Refuses `torch.compile` where it would fail in the middle of the first step.

    Raises:
        UserError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"compile=true needs a C++ compiler, and there is no {compiler}; install one, or leave "
            "compile out"
        )


def _devices(wanted: object, visible: int, batch_size: int | None) -> int | list[int]:
    """The number of devices, or their indices.

    Args:
        wanted: `trainer.devices`.
        visible: devices of this machine.
        batch_size: images that they share, None for any number.
    """
    if wanted in ("auto", -1):
        return next(n for n in range(visible, 0, -1) if batch_size is None or batch_size % n == 0)
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0:
        return wanted
    if isinstance(wanted, ListConfig) and wanted and all(isinstance(i, int) for i in wanted):
        return list(wanted)
    raise UserError(f"trainer.devices={wanted} is no count, no list of indices and not auto")


def started_ranks(environment: Mapping[str, str]) -> int | None:
    """How many ranks torchrun or srun has started this process as one of; None if it is alone."""
    if "RANK" in environment or "LOCAL_RANK" in environment:
        return int(environment.get("WORLD_SIZE", "1"))
    # One SLURM task is a place to start ranks from, as a submitit job is.
    tasks = int(environment.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in environment else 1
    return tasks if tasks > 1 else None


def is_launched_rank() -> bool:
    """Whether `run_on_ranks` has started this process."""
    return EXIT_FILE in os.environ


def report_exit(code: int, message: str = "") -> None:
    """Tells the process that started this rank how it ends; the first rank to end has its say."""
    try:
        with Path(os.environ[EXIT_FILE]).open("x") as file:
            json.dump({"code": code, "message": message}, file)
    except FileExistsError:
        pass


def cpu_count() -> int:
    """Cores that this process may use: its affinity, and the container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def run_on_ranks(module: str, folder: Path, devices: int) -> None:
    """Runs the composed job of `folder` once more, as so many ranks of this machine.

    Args:
        module: of the command, as for ``python -m``.
        folder: of the job; `.hydra/config.yaml` in it is the composed config.
        devices: number of ranks.

    Raises:
        UserError: of a rank.
        SystemExit: with the code of a rank that stopped on a signal.
        RuntimeError: a rank failed; it has printed its trace.
    """
    exit_file = folder / ".hydra" / "rank_exit.json"
    exit_file.unlink(missing_ok=True)
    quoted = str(folder).replace("'", r"\'")
    command = [sys.executable, "-m", "axialseg.launch"]
    command += ["--standalone", f"--nproc-per-node={devices}", "-m", module]
    command += ["--config-path", str(folder / ".hydra"), "--config-name", "config"]
    command += ["--config-dir", str(conf_dir()), "hydra/job_logging=plain"]
    command += ["hydra.output_subdir=null", f"hydra.run.dir='{quoted}'"]
    command += [f"hydra.job.name={module.rpartition('.')[2]}"]
    code, signalled = _wait(subprocess.Popen(command, env=_rank_environment(exit_file, devices)))
    if exit_file.is_file():
        report = json.loads(exit_file.read_text())
        exit_file.unlink()
        if report["code"] == MISTAKE:
            raise UserError(report["message"])
        sys.exit(report["code"])
    if signalled:
        sys.exit(os.EX_TEMPFAIL)  # before training began: nothing is lost
    if code:
        raise RuntimeError(f"a rank of {folder} failed; what it said is above")


def _rank_environment(exit_file: Path, devices: int) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}
    package_parent = str(Path(__file__).resolve().parents[1])
    paths = [package_parent, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // devices)))
    environment[EXIT_FILE] = str(exit_file)
    return environment


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, bool]:
    """Waits for the ranks, and hands signals to stop on to them.

    Returns:
        Exit code, and whether there was such a signal.
    """
    signals: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        process.terminate()

    if threading.current_thread() is not threading.main_thread():
        return process.wait(), False
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    earlier = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        return process.wait(), bool(signals)
    except KeyboardInterrupt:
        process.wait()  # the ranks have got the interrupt from the terminal too
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _agent(arguments: Sequence[str]) -> int:
    """torch.distributed.run, which leaves it to the ranks to say what went wrong."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        logging.disable(logging.ERROR)
        run.main(list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: rank {rank} was ended by signal {-failure.exitcode}", file=sys.stderr)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(_agent(sys.argv[1:]))
