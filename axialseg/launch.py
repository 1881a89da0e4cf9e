"""One process for each device that a job runs on.

Hydra and the usual ways to start ranks do not go together: a rank that runs the command line again
is a sweep of its own, with parameters of its own. So a job on several devices is started once more,
by its composed config, as one process for each. Single runs, `-m` and every launcher and sweeper
then see one job with one set of parameters. Ranks that srun or torchrun has started are left alone.
"""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from axialseg.config.schema import conf_dir
from axialseg.errors import RunFailedError, UserError
from axialseg.machine.child_process import STOP_SIGNALS
from axialseg.machine.hardware import (
    Hardware,
    cpu_count,
    resolve_hardware,
    started_rank,
    started_ranks,
)
from axialseg.machine.in_use import only_job_in
from axialseg.machine.provenance import keep_provenance

# A launched rank writes its exit code and what it has to say here: the first one has its say.
EXIT_FILE = "AXIALSEG_EXIT_FILE"
PARENT = "AXIALSEG_PARENT"  # process that has started the rank
RANK_VARIABLES = (
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
)
SAME_REQUEST_SECONDS = 1.0  # several signals within this time are one request to stop
PARTNER_SECONDS = 30.0  # that the others have for their own end when one rank has ended

Work = Callable[[DictConfig, Hardware, Path], None]
Rank = subprocess.Popen[bytes]


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
    # Of ranks that srun or torchrun has started, one holds the folder for all.
    holds = not is_launched_rank() and started_rank(os.environ) == 0
    with only_job_in(folder) if holds else nullcontext():
        if holds:
            start = os.environ.get("AXIALSEG_START", f"python -m {module}")
            keep_provenance(start, folder, cpu_count())
        _run(work, module, cfg, hardware, folder)
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return math.nan
    value = json.loads(metrics.read_text())[cfg.model.objective]
    return math.nan if value is None else float(value)


def _run(work: Work, module: str, cfg: DictConfig, hardware: Hardware, folder: Path) -> None:
    if hardware.world_size > 1 and started_ranks(os.environ) is None:
        run_on_ranks(module, folder, hardware.world_size)
    else:
        _work_alone(work, cfg, hardware, folder)


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


def report_exit(code: int, message: str = "", error: BaseException | None = None) -> None:
    """Tells the process that started this rank how it ends; the first rank to end has its say.

    Args:
        code: exit code.
        message: sentence for the user.
        error: a defect, whose trace is printed if no rank was killed: then it is only a result.
    """
    trace = "" if error is None else "".join(traceback.format_exception(error))
    try:
        with Path(os.environ[EXIT_FILE]).open("x") as file:
            json.dump({"code": code, "message": message, "trace": trace}, file)
    except FileExistsError:
        pass


def run_on_ranks(module: str, folder: Path, devices: int) -> None:
    """Runs the composed job of `folder` once more, as so many ranks of this machine.

    Signals to stop are handed on. The ranks end with this process, however it ends.

    Args:
        module: of the command, as for ``python -m``.
        folder: of the job; `.hydra/config.yaml` in it is the composed config.
        devices: number of ranks.

    Raises:
        UserError: of a rank, or a rank was killed.
        SystemExit: with the code of a rank that stopped on a signal.
        RuntimeError: a rank failed; its trace has been printed.
    """
    quoted = str(folder).replace("'", r"\'")
    # Hydra also reads groups beside a config, perhaps a stranger's: beside a copy there are none.
    with tempfile.TemporaryDirectory(prefix="axialseg-") as place:
        shutil.copy(folder / ".hydra" / "config.yaml", place)
        command = [sys.executable, "-m", module]
        command += ["--config-path", place, "--config-name", "config"]
        command += ["--config-dir", str(conf_dir()), "hydra/job_logging=plain"]
        command += ["hydra.output_subdir=null", f"hydra.run.dir='{quoted}'"]
        command += [f"hydra.job.name={module.rpartition('.')[2]}"]
        exit_file = Path(place) / "exit.json"
        environment = _rank_environment(exit_file, devices)
        ranks = [
            subprocess.Popen(command, env=environment | {"RANK": rank, "LOCAL_RANK": rank})
            for rank in map(str, range(devices))
        ]
        requests, codes = _wait(ranks)
        report = json.loads(exit_file.read_text()) if exit_file.is_file() else None
    if requests > 1:
        sys.exit(128 + signal.SIGINT)
    killed = [(rank, -code) for rank, code in enumerate(codes) if code is not None and code < 0]
    # Asked to stop before or after training, where nothing is lost, ranks just end.
    is_stopped = report is None or report["code"] == os.EX_TEMPFAIL or (report["trace"] and killed)
    if requests and is_stopped:
        sys.exit(os.EX_TEMPFAIL if any(codes) else 0)
    # A library that loses its partner aborts: then the trace of the first rank to fail says more.
    if killed and (report is None or (report["trace"] and killed[0][1] != signal.SIGABRT)):
        rank, number = killed[0]
        hint = ", as the system does when memory is short" if number == signal.SIGKILL else ""
        raise RunFailedError(
            f"rank {rank} was ended by signal {number} ({signal.Signals(number).name}){hint}; "
            + (
                f"hydra.run.dir={folder} goes on from the newest checkpoint"
                if any(folder.glob("checkpoints/*.ckpt"))
                else "no checkpoint had been written; start the same command again"
            )
        )
    if report is not None and report["trace"]:
        print(report["trace"], file=sys.stderr, end="")
        raise RuntimeError(f"a rank of {folder} failed; what it said is above")
    if report is not None and report["message"]:
        raise (UserError if report["code"] == UserError.exit_code else RunFailedError)(
            report["message"]
        )
    if report is not None or any(codes):
        sys.exit(report["code"] if report is not None else 1)


def _rank_environment(exit_file: Path, devices: int) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}
    package_parent = str(Path(__file__).resolve().parents[1])
    paths = [package_parent, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // devices)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return environment | {
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        EXIT_FILE: str(exit_file),
        PARENT: str(os.getpid()),
    }


def _wait(ranks: Sequence[Rank]) -> tuple[int, list[int | None]]:
    """Waits for the ranks to end: all well, or the others soon after the first that does not.

    Returns:
        How often someone asked to stop (at the second Ctrl-C the ranks are killed), and the exit
        code of each rank at the time when the first one had failed.
    """
    requests: list[float] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not requests:
            requests.append(now)
            _send(ranks, signal.SIGTERM)
        elif number == signal.SIGINT and now - requests[0] > SAME_REQUEST_SECONDS:
            requests.append(now)
            _send(ranks, signal.SIGKILL)

    is_main = threading.current_thread() is threading.main_thread()
    earlier = {n: signal.signal(n, hand_on) for n in STOP_SIGNALS} if is_main else {}
    try:
        codes = _wait_for_all(ranks)
        return len(requests), codes
    finally:
        _send(ranks, signal.SIGKILL)
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _wait_for_all(ranks: Sequence[Rank]) -> list[int | None]:
    deadline = math.inf
    first: list[int | None] = []
    while None in (codes := [rank.poll() for rank in ranks]):
        if any(codes) and not first:
            first = codes
            is_killed = any(code is not None and code < 0 for code in codes)
            # Nobody can train on; a killed rank's partners would only tell of its silence.
            _send(ranks, signal.SIGKILL if is_killed else signal.SIGTERM)
            deadline = time.monotonic() + PARTNER_SECONDS
        if time.monotonic() > deadline:
            _send(ranks, signal.SIGKILL)
        time.sleep(0.05)
    return first or codes


def _send(ranks: Sequence[Rank], number: int) -> None:
    for rank in ranks:
        rank.send_signal(number)  # which does nothing to one that has ended
