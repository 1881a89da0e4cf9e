"""A job under a real SLURM of this machine is stopped, queued again and trained to its end."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
SCRIPT = TESTS.parent / "conf/hardware/slurm.sbatch"
STEPS, STOPPED = 8, 3
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{', '.join(MISSING)} missing: apt-get install -y slurm-wlm munge",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs of any user: run as root"),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
MpiDefault=none
ReturnToService=2
KillWait=120
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of one node with two processors, with its own key, ports and folders."""
    folder = tmp_path / "cluster"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    ports = dict(zip(("controller_port", "node_port"), free_ports(), strict=True))
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, **ports))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    munge = ["munged", "--force", "--foreground", f"--key-file={key}"]
    munge += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D", "-f", conf], ["slurmd", "-D", "-f", conf]):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
            time.sleep(1)
        wait_until(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), 60)
        yield
        run("scancel", "--state=RUNNING")
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(daemons):
            daemon.wait(timeout=60)


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def state(job: str) -> str:
    found = re.search(r"JobState=(\w+)", run("scontrol", "show", "job", job))
    return found[1] if found else ""


@pytest.fixture
def submitted(
    cluster: None, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A job of two tasks that waits in a step for `go_<step>`; its id, and the run's folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("PYTHON", sys.executable)
    lines = [line for line in tiny_run if line != "hardware=cpu"]
    lines += [f"trainer.max_steps={STEPS}", "trainer.limit_val_batches=0"]
    lines += ["trainer.accelerator=cpu", "+callbacks.hold._target_=step_record.Hold"]
    lines += [f"+callbacks.hold.steps=[{STOPPED}]"]
    options = ["--parsable", "--ntasks=2", "--requeue", f"--chdir={tmp_path}"]
    job = run("sbatch", *options, SCRIPT, *lines).strip()
    assert job.isdigit()
    folder = tmp_path / f"outputs/slurm_{job}"
    held = [folder / f"held_{STOPPED}.{rank}" for rank in (0, 1)]
    wait_until(
        lambda: state(job) == "FAILED" or all(f.is_file() and f.read_text() for f in held), 300
    )
    assert state(job) == "RUNNING", (tmp_path / f"slurm_{job}.log").read_text()
    return job, folder


def last_step(folder: Path) -> int:
    checkpoint = folder / "checkpoints/last.ckpt"
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def test_a_requeued_job_goes_on_to_the_end(submitted: tuple[str, Path]) -> None:
    job, folder = submitted
    run("scontrol", "requeue", job)
    (folder / f"go_{STOPPED}").touch()
    wait_until(lambda: state(job) in ("COMPLETED", "FAILED", "CANCELLED"), 400)
    said = (folder / "train.log").read_text()
    assert state(job) == "COMPLETED", said
    assert f"Stopped by a signal at step {STOPPED + 1}" in said
    assert f"from step {STOPPED + 1} to {STEPS} on 2 x cpu" in said
    assert last_step(folder) == STEPS
    assert "Restarts=1 " in run("scontrol", "show", "job", job)


@pytest.mark.parametrize(("how", "after"), [("--signal=USR1", "COMPLETED"), ("", "CANCELLED")])
def test_a_job_near_its_end_is_queued_again_and_a_cancelled_one_is_not(
    how: str, after: str, submitted: tuple[str, Path]
) -> None:
    job, folder = submitted
    run("scancel", *[how] * bool(how), job)
    (folder / f"go_{STOPPED}").touch()
    wait_until(lambda: state(job) == after, 400)
    assert last_step(folder) == (STEPS if how else STOPPED + 1)
