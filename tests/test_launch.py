import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from axialseg.config.schema import TrainerConf
from axialseg.errors import RunFailedError, UserError
from axialseg.launch import run_on_devices, run_on_ranks
from axialseg.machine.hardware import (
    Hardware,
    batch_size_per_rank,
    cpu_count,
    resolve_hardware,
    started_ranks,
)

TESTS = Path(__file__).parent


def trainer(**values: object) -> DictConfig:
    return OmegaConf.merge(OmegaConf.structured(TrainerConf), values)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many GPUs as the test's parameter says; none without one."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    count = getattr(request, "param", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: count > 1)


@pytest.mark.parametrize(
    ("gpus", "values", "batch_size", "expected"),
    [
        (0, {}, 8, Hardware("cpu", 1, "32-true", 1)),
        (1, {}, 8, Hardware("gpu", 1, "16-mixed", 1)),
        (8, {}, 32, Hardware("gpu", 8, "bf16-mixed", 8)),
        (8, {}, 12, Hardware("gpu", 6, "bf16-mixed", 6)),
        (8, {"accumulate_grad_batches": 4}, 8, Hardware("gpu", 2, "bf16-mixed", 2)),
        (8, {}, None, Hardware("gpu", 8, "bf16-mixed", 8)),
        (8, {"devices": 2, "precision": "32-true"}, 8, Hardware("gpu", 2, "32-true", 2)),
        (8, {"devices": [3, 5]}, 8, Hardware("gpu", [3, 5], "bf16-mixed", 2)),
        (8, {"accelerator": "cpu"}, 8, Hardware("cpu", 1, "32-true", 1)),
        (0, {"accelerator": "cpu", "devices": 2}, 8, Hardware("cpu", 2, "32-true", 2)),
    ],
    indirect=["gpus"],
)
def test_resolves_auto(
    gpus: None, values: dict[str, object], batch_size: int | None, expected: Hardware
) -> None:
    assert resolve_hardware(trainer(**values), batch_size) == expected


@pytest.mark.parametrize(
    ("gpus", "values", "sentence"),
    [
        (0, {"accelerator": "gpu"}, "no GPU is visible"),
        (0, {"accelerator": "tpu"}, "trainer.accelerator=tpu"),
        (2, {"devices": 4}, "trainer.devices=4, but 2 GPUs"),
        (2, {"devices": "many"}, "trainer.devices=many"),
        (2, {"devices": 0}, "trainer.devices=0"),
        (2, {"devices": True}, "trainer.devices=True"),
        (2, {"devices": 1, "num_nodes": 2}, "trainer.num_nodes=2 needs"),
        (
            4,
            {"devices": 3},
            r"by 3 devices: 8 = 3 x 2 \+ 2; give schedule.batch_size=6 or 9, or take 2",
        ),
    ],
    indirect=["gpus"],
)
def test_refuses_devices(gpus: None, values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve_hardware(trainer(**values), 8)


def test_refuses_another_number_of_ranks(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 ranks were started, but trainer\.devices=1 "):
        resolve_hardware(trainer(devices=1, accelerator="cpu"), 8)
    assert resolve_hardware(trainer(devices=2, accelerator="cpu"), 8).world_size == 2


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4"}, 4),
        ({"LOCAL_RANK": "0"}, 1),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, 16),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "8"}, None),
    ],
)
def test_knows_started_ranks(environment: dict[str, str], ranks: int | None) -> None:
    assert started_ranks(environment) == ranks


def test_shares_the_batch() -> None:
    assert batch_size_per_rank(32, world_size=4, accumulated=2) == 4
    with pytest.raises(UserError, match=r"4 devices x trainer\.accumulate_grad_batches=2: 33 = 8"):
        batch_size_per_rank(33, world_size=4, accumulated=2)
    for batch_size in (0, 4, 33):
        with pytest.raises(UserError, match=f"schedule.batch_size={batch_size}"):
            batch_size_per_rank(batch_size, world_size=4, accumulated=2)


def test_counts_usable_cores() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("written", "objective"), [({"PQ": 1.5, "top1": 70.25}, 70.25), (None, None)]
)
def test_the_models_objective_is_returned(
    written: dict[str, float] | None, objective: float | None, gpus: None, tmp_path: Path
) -> None:
    def work(cfg: DictConfig, hardware: Hardware, folder: Path) -> None:
        if written is not None:
            (folder / "metrics.json").write_text(json.dumps(written))

    cfg = OmegaConf.create({"trainer": trainer(), "model": {"objective": "top1"}})
    returned = run_on_devices(work, "no.module", cfg, tmp_path, batch_size=None)
    assert returned == objective if objective is not None else math.isnan(returned)


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a composed job of `ranks_job.py`, with a name that needs quoting."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    folder = tmp_path / "lr=0.5, it's"
    (folder / ".hydra").mkdir(parents=True)
    return folder


def compose_job(folder: Path, ending: str) -> None:
    OmegaConf.save({"lr": 0.5, "ending": ending}, folder / ".hydra/config.yaml")


def test_ranks_get_the_composed_job(job_folder: Path) -> None:
    compose_job(job_folder, "well")
    run_on_ranks("ranks_job", job_folder, 2)
    for rank in (0, 1):
        seen = json.loads((job_folder / f"rank_{rank}.json").read_text())
        del seen["pid"]
        assert seen == {"world": "2", "lr": 0.5, "seed": False}


def test_ranks_read_no_configuration_that_lies_in_the_folder(job_folder: Path) -> None:
    compose_job(job_folder, "well")
    logging = job_folder / ".hydra/hydra/job_logging/plain.yaml"
    logging.parent.mkdir(parents=True)
    logging.write_text("# @package hydra.job_logging\nversion: 1\nroot: {handlers: [strangers]}\n")
    run_on_ranks("ranks_job", job_folder, 1)
    assert (job_folder / "rank_0.json").exists()


def test_mistake_of_one_rank_ends_all_with_its_sentence(
    job_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compose_job(job_folder, "mistake")
    with pytest.raises(UserError, match=r"^rank 1 found a broken file$"):
        run_on_ranks("ranks_job", job_folder, 2)
    assert capfd.readouterr().err == ""


def test_exit_code_of_a_stopped_rank_is_kept(job_folder: Path) -> None:
    compose_job(job_folder, "stopped")
    with pytest.raises(SystemExit) as stopped:
        run_on_ranks("ranks_job", job_folder, 2)
    assert stopped.value.code == os.EX_TEMPFAIL


def test_defect_of_a_rank_keeps_its_trace(
    job_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compose_job(job_folder, "defect")
    with pytest.raises(RuntimeError, match="what it said is above"):
        run_on_ranks("ranks_job", job_folder, 2)
    errors = capfd.readouterr().err
    assert "ValueError: a defect" in errors
    assert "ChildFailedError" not in errors


def test_a_killed_rank_is_named_in_one_line(
    job_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compose_job(job_folder, "killed")
    with pytest.raises(RunFailedError, match=r"^rank 1 was ended by signal 9 \(SIGKILL\)") as told:
        run_on_ranks("ranks_job", job_folder, 2)
    assert capfd.readouterr().err == ""
    assert "no checkpoint had been written; start the same command again" in str(told.value)


@contextmanager
def waiting_ranks(job_folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A process that has started two ranks, and the ids of these."""
    compose_job(job_folder, "wait")
    code = (
        "from pathlib import Path; from axialseg.launch import run_on_ranks; "
        f"run_on_ranks('ranks_job', Path({str(job_folder)!r}), 2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=TESTS.parent)
    try:
        deadline = time.monotonic() + 60
        files = [job_folder / f"rank_{rank}.json" for rank in (0, 1)]
        while time.monotonic() < deadline and not all(
            file.is_file() and file.read_text().endswith("}") for file in files
        ):
            time.sleep(0.1)
        yield parent, [json.loads(file.read_text())["pid"] for file in files]
    finally:
        parent.kill()
        parent.wait()


def wait_for_end(processes: list[int]) -> None:
    """Waits until none of them runs any more."""
    deadline = time.monotonic() + 30
    while any(is_running(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_reaches_the_ranks(number: signal.Signals, job_folder: Path) -> None:
    with waiting_ranks(job_folder) as (parent, ranks):
        parent.send_signal(number)
        assert parent.wait(timeout=60) == os.EX_TEMPFAIL
        assert not any(is_running(rank) for rank in ranks)


def test_ranks_end_with_their_parent_however_it_ends(job_folder: Path) -> None:
    with waiting_ranks(job_folder) as (parent, ranks):
        assert all(is_running(rank) for rank in ranks)
        parent.kill()
        wait_for_end(ranks)


def test_a_rank_that_does_not_stop_is_killed_by_the_second_interrupt(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKS_IGNORE_SIGNALS", "1")
    with waiting_ranks(job_folder) as (parent, ranks):
        parent.send_signal(signal.SIGINT)
        time.sleep(1.2)
        assert parent.poll() is None
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=30) == 130
        assert not any(is_running(rank) for rank in ranks)
