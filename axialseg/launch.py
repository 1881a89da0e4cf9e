"""One process for each device that a job runs on.

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
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from axialseg.config.schema import conf_dir
from axialseg.errors import UserError
from axialseg.machine.hardware import Hardware, cpu_count, resolve_hardware, started_ranks

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
            from axialseg.loggers.wandb import finish_wandb

            finish_wandb(exit_code)


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
