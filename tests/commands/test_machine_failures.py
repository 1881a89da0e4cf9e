"""What a machine does to a run is told in one sentence."""

import errno
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from terminal import unwrapped

from axialseg.commands import evaluate, train
from axialseg.commands.machine_failures import machine_failure
from axialseg.datasets import datamodule
from axialseg.errors import RunFailedError, UserError
from axialseg.machine import whole_file as whole_file_module

Command = Callable[[Callable[[], None], list[str]], None]
Ending = Callable[[Callable[[], None], list[str]], tuple[int, str]]


@pytest.fixture
def ending(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ending:
    """Runs a command that ends with one sentence; gives its exit code and the sentence."""

    def run(main: Callable[[], None], arguments: list[str]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            command(main, arguments)
        lines = [
            line for line in unwrapped(capsys.readouterr().err).splitlines() if "error: " in line
        ]
        assert len(lines) == 1
        return int(str(stopped.value.code)), lines[0]

    return run


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            UserError,
            "--shm-size",
        ),
        (
            "unable to write to file </torch_7_1_0>: No space left on device (28) in /dev/shm",
            UserError,
            "data.num_workers=0",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", RunFailedError, "Killed"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", RunFailedError, "worker 7, 8"),
        ("CUDA out of memory. Tried to allocate 2 GiB.", RunFailedError, "accumulate_grad_batches"),
    ],
)
def test_workers_and_memory(text: str, kind: type[UserError], part: str) -> None:
    failure = machine_failure(RuntimeError(text))
    assert type(failure) is kind
    assert part in str(failure)


def test_other_errors_are_none() -> None:
    for error in (RuntimeError("a defect"), OSError("no number"), FileNotFoundError(2, "x", "y")):
        assert machine_failure(error) is None


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("metrics.csv", errno.ENOSPC),
        ("metrics.json", errno.EROFS),
        ("curves.png", errno.ENOSPC),
        ("images/000000000001.png", errno.EDQUOT),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    file: str,
    number: int,
    tiny_run: list[str],
    tmp_path: Path,
    ending: Ending,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = os.replace

    def fail(draft: Path, path: Path) -> None:
        if Path(path) == tmp_path / file:
            raise OSError(number, os.strerror(number))
        replace(draft, path)

    monkeypatch.setattr(whole_file_module.os, "replace", fail)
    arguments = [*tiny_run, f"hydra.run.dir={tmp_path}", "trainer.max_steps=2"]
    code, sentence = ending(train.main, arguments)
    assert code == 2
    assert f"{tmp_path / file} cannot be written ({os.strerror(number)})" in sentence
    assert not (tmp_path / file).exists()


def test_a_killed_loader_worker(
    tiny_run: list[str], tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = datamodule.TrainingItems.__getitem__

    def killed(items: Any, key: Any) -> Any:
        if key.position >= 6 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(items, key)

    monkeypatch.setattr(datamodule.TrainingItems, "__getitem__", killed)
    arguments = [*tiny_run, f"hydra.run.dir={tmp_path}", "data.num_workers=1", "data.cache=false"]
    code, sentence = ending(train.main, arguments)
    assert code == 1
    # PyTorch does not always learn by which signal.
    assert re.search("was ended (by the signal Killed|from outside)", sentence)
    assert "data.num_workers" in sentence


def test_weights_that_are_not_finite_are_not_scored(
    tiny_run: list[str], tmp_path: Path, command: Command, ending: Ending
) -> None:
    folder = tmp_path / "run"
    command(train.main, [*tiny_run, f"hydra.run.dir={folder}", "trainer.max_steps=1"])
    file = folder / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    name = next(iter(content["state_dict"]))
    weights = content["state_dict"][name]
    weights[(0,) * weights.ndim] = torch.nan
    torch.save(content, file)
    code, sentence = ending(evaluate.main, [f"run={folder}", f"output={tmp_path / 'out'}"])
    assert code == 1
    assert "are not finite" in sentence
    code, sentence = ending(train.main, [*tiny_run, f"hydra.run.dir={folder}"])
    assert code == 1
    assert "are not finite" in sentence
