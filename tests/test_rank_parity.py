"""Any number of ranks trains as one does, also when some are lost and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from axialseg.commands import train
from axialseg.loggers.csv import read_table

TESTS = Path(__file__).parent
STEPS = 20
TOLERANCE = 1e-9  # relative to the largest value of a tensor
RANK_KILLED, AGENT_KILLED, SAVED_EVERY = 7, 14, 5


def python_path() -> str:
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


@pytest.fixture(scope="module")
def float64_run(tiny_run: list[str], tiny_max_run: list[str]) -> Callable[[str], list[str]]:
    """Overrides of a run of a model, with a total batch of 4."""
    lines = [f"trainer.max_steps={STEPS}", "trainer.limit_val_batches=0"]
    lines += ["trainer.precision=64-true", "schedule.batch_size=4"]
    lines += ["+callbacks.record._target_=step_record.StepRecord"]
    models = {"panoptic_deeplab": tiny_run, "max_deeplab": tiny_max_run}
    return lambda model: [*models[model], *lines]


@pytest.fixture(scope="module")
def uninterrupted(
    float64_run: Callable[[str], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of such runs of one and of two ranks, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(model: str) -> Path:
        if model not in made:
            made[model] = tmp_path_factory.mktemp(model)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", python_path())
                for ranks in (1, 2):
                    where = f"hydra.run.dir={made[model] / str(ranks)}"
                    count = f"trainer.devices={ranks}"
                    patch.setattr("sys.argv", ["train.py", *float64_run(model), count, where])
                    train.main()
        return made[model]

    return folder


def recorded(folder: Path, world: int, name: str) -> list[Tensor]:
    """What each rank has written."""
    return [torch.load(folder / f"{rank}_of_{world}/{name}.pt") for rank in range(world)]


def images(folder: Path, world: int, step: int) -> list[int]:
    """Of a step, in the order of the data set's one sequence, which is dealt out to the ranks."""
    return torch.stack(recorded(folder, world, f"images_{step}"), dim=1).flatten().tolist()


@pytest.mark.parametrize("model", ["panoptic_deeplab", "max_deeplab"])
def test_losses_and_gradients_in_float64(model: str, uninterrupted: Callable[[str], Path]) -> None:
    one, two = (uninterrupted(model) / ranks for ranks in "12")
    logged = [dict(read_table(place / "metrics.csv")) for place in (one, two)]
    for name, value in logged[0][STEPS - 1].items():
        if name.startswith("train/"):  # Lightning keeps float32
            assert logged[1][STEPS - 1][name] == pytest.approx(value, rel=1e-6), name
    for step in range(STEPS):
        (whole,), halves = (recorded(one, 1, f"loss_{step}"), recorded(two, 2, f"loss_{step}"))
        assert whole.dtype == torch.float64
        assert halves[0] != halves[1]
        torch.testing.assert_close(sum(halves) / 2, whole, rtol=TOLERANCE, atol=0)
        assert images(one, 1, step) == images(two, 2, step)
        alone = torch.load(one / f"0_of_1/gradients_{step}.pt")
        shared = torch.load(two / f"0_of_2/gradients_{step}.pt")
        assert alone.keys() == shared.keys()
        largest = max(gradient.abs().max() for gradient in alone.values())
        for name, gradient in alone.items():
            error = (shared[name] - gradient).abs().max()
            assert error <= TOLERANCE * largest, (step, name, float(error))


def start_agent(number: int, port: int, log: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """One of two torchrun on this machine, each for one rank; the first holds their store."""
    short = f"is_host={number == 0},last_call_timeout=15,keep_alive_interval=1"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2"]
    command += ["--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=x"]
    command += [f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-conf={short}"]
    command += ["-m", "axialseg.commands.train", *arguments]
    # Two agents on one machine would take each other's store for that of the ranks.
    environment = os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def wait_for(files: list[Path], agent: subprocess.Popen[bytes]) -> None:
    """Waits until all are there and not empty."""
    deadline = time.monotonic() + 240
    while not all(file.is_file() and file.read_text() for file in files):
        assert agent.poll() is None
        assert time.monotonic() < deadline, files
        time.sleep(0.1)


def test_a_killed_rank_and_a_killed_agent(
    float64_run: Callable[[str], list[str]], uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [line for line in float64_run("panoptic_deeplab") if line != "hardware=cpu"]
    arguments += ["hardware=torchrun", "trainer.accelerator=cpu", f"hydra.run.dir={run}"]
    arguments += [f"callbacks.last_checkpoint.every_n_steps={SAVED_EVERY}"]
    arguments += ["+callbacks.hold._target_=step_record.Hold"]
    arguments += [f"+callbacks.hold.steps=[{RANK_KILLED},{AGENT_KILLED}]"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [tmp_path / f"agent_{number}.log" for number in (0, 1)]
    agents = [start_agent(number, port, logs[number], arguments) for number in (0, 1)]
    try:
        held = [run / f"held_{RANK_KILLED}.{rank}" for rank in (0, 1)]
        wait_for(held, agents[0])
        os.kill(int(held[1].read_text()), signal.SIGKILL)
        (run / f"go_{RANK_KILLED}").touch()

        held = [run / f"held_{AGENT_KILLED}.{rank}" for rank in (0, 1)]
        wait_for(held, agents[0])
        agents[1].kill()
        (run / f"go_{AGENT_KILLED}").touch()
        assert agents[0].wait(timeout=240) == 0, logs[0].read_text()[-3000:]
    finally:
        for agent in agents:
            agent.terminate()

    one, two = (uninterrupted("panoptic_deeplab") / ranks for ranks in "12")
    for step in range(AGENT_KILLED):
        for name in ("loss", "gradients"):
            before, after = (recorded(place, 2, f"{name}_{step}") for place in (two, run))
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert images(run, 2, step) == images(one, 1, step)
    first = AGENT_KILLED // SAVED_EVERY * SAVED_EVERY
    for step in range(first, STEPS):
        assert images(run, 1, step) == images(one, 1, step)
        (loss,), (expected,) = (recorded(place, 1, f"loss_{step}") for place in (run, one))
        torch.testing.assert_close(loss, expected, rtol=TOLERANCE, atol=0)
    assert not (run / f"0_of_1/loss_{first - 1}.pt").exists()
    said = (run / "train.log").read_text()
    for start in (SAVED_EVERY, first):
        assert f"from step {start} to {STEPS}" in said
