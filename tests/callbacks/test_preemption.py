"""A signal stops a run with a checkpoint and exit code 75, and the run can go on."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.preemption import Preempted, Preemption


class Kick(pl.Callback):
    """Sends this process a signal within a training step, or within a validation."""

    def __init__(self, number: signal.Signals, step: int, hook: str) -> None:
        self.number = number
        self.step = step
        self.hook = hook
        self.validated: list[int] = []

    def _kick(self, trainer: pl.Trainer, hook: str) -> None:
        if trainer.global_step == self.step and self.hook == hook:
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._kick(trainer, "train")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.validated.append(trainer.global_step)
        self._kick(trainer, "validation")


def preempted(folder: Path, kick: Kick, every: int | None, **rest: Any) -> int:
    """Trains until the signal; returns the step of the checkpoint."""
    callbacks = [kick, Preemption(), LastCheckpoint(every)]
    trainer = toy_trainer(folder, 8, callbacks=callbacks, **rest)
    with pytest.raises(Preempted) as info:
        trainer.fit(toy_task(8), datamodule=ToyData())
    assert info.value.code == 75
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_the_step_and_ends_with_75(tmp_path: Path, number: signal.Signals) -> None:
    handler = signal.getsignal(number)
    assert preempted(tmp_path, Kick(number, 3, "train"), every=None) == 4
    assert signal.getsignal(number) is handler


def test_a_run_that_ends_gives_the_signals_back(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    trainer = toy_trainer(tmp_path, 2, callbacks=[Preemption()])
    trainer.fit(toy_task(2), datamodule=ToyData())
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, resumed = toy_task(8), toy_task(8)
    toy_trainer(tmp_path, 8).fit(whole, datamodule=ToyData())
    preempted(tmp_path, Kick(signal.SIGTERM, 3, "train"), every=None)
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    toy_trainer(tmp_path, 8).fit(
        resumed, datamodule=ToyData(), ckpt_path=checkpoint, weights_only=True
    )
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_validation_comes_between_signal_and_end(tmp_path: Path) -> None:
    kick = Kick(signal.SIGTERM, 3, "train")
    assert preempted(tmp_path, kick, every=4, val_check_interval=4) == 4
    assert kick.validated == []


def test_within_a_validation_of_a_saved_step_it_ends_at_once(tmp_path: Path) -> None:
    kick = Kick(signal.SIGTERM, 2, "validation")
    assert preempted(tmp_path, kick, every=2, val_check_interval=2) == 2
    assert kick.validated == [2]  # one of the two batches


def test_any_validation_is_of_a_saved_step(tmp_path: Path) -> None:
    kick = Kick(signal.SIGINT, 2, "validation")
    assert preempted(tmp_path, kick, every=None, val_check_interval=2) == 2
    assert kick.validated == [2]


def test_stops_between_steps_not_within_an_accumulated_one(tmp_path: Path) -> None:
    kick = Kick(signal.SIGTERM, 2, "train")
    assert preempted(tmp_path, kick, every=None, accumulate_grad_batches=3) == 3
    whole, resumed = toy_task(8), toy_task(8)
    toy_trainer(tmp_path, 8, accumulate_grad_batches=3).fit(whole, datamodule=ToyData())
    toy_trainer(tmp_path, 8, accumulate_grad_batches=3).fit(
        resumed,
        datamodule=ToyData(),
        ckpt_path=tmp_path / "checkpoints/last.ckpt",
        weights_only=True,
    )
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


class KickInSave(Kick):
    """Sends the signal while a checkpoint is being written."""

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        self._kick(trainer, "save")


def test_a_signal_while_a_checkpoint_is_written_does_not_damage_it(tmp_path: Path) -> None:
    kick = KickInSave(signal.SIGINT, 4, "save")
    assert preempted(tmp_path, kick, every=4) == 5


def test_one_request_may_come_as_several_signals(tmp_path: Path) -> None:
    class Twice(Kick):
        def _kick(self, trainer: pl.Trainer, hook: str) -> None:
            super()._kick(trainer, hook)
            super()._kick(trainer, hook)

    assert preempted(tmp_path, Twice(signal.SIGINT, 3, "train"), every=None) == 4


def test_a_second_interrupt_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    preemption = Preemption()
    clock = iter([10.0, 11.5])
    monkeypatch.setattr("axialseg.callbacks.preemption.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(os, "kill", lambda *arguments: ended.append(arguments))
    handler = signal.getsignal(signal.SIGINT)
    try:
        preemption._note(signal.SIGINT, None)
        assert ended == []
        preemption._note(signal.SIGINT, None)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ended == [(os.getpid(), signal.SIGINT)]


def test_an_evaluation_stops_within_a_validation(tmp_path: Path) -> None:
    kick = Kick(signal.SIGTERM, 0, "validation")
    trainer = toy_trainer(tmp_path, callbacks=[kick, Preemption()], val_check_interval=2)
    with pytest.raises(Preempted):
        trainer.validate(toy_task(), datamodule=ToyData(), verbose=False)
    assert kick.validated == [0]
