"""Checkpoints by the clock."""

from pathlib import Path

from test_last_checkpoint import Saves
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.timed_checkpoint import TimedCheckpoint


def saves(folder: Path, minutes: float, every: int | None = None) -> list[tuple[str, int]]:
    noted = Saves()
    callbacks = [noted, TimedCheckpoint(minutes), LastCheckpoint(every)]
    trainer = toy_trainer(folder, 4, callbacks=callbacks)
    trainer.fit(toy_task(), datamodule=ToyData())
    return noted.events


def test_saves_whenever_the_newest_file_is_too_old(tmp_path: Path) -> None:
    assert saves(tmp_path, 0.0) == [("save", step) for step in (1, 2, 3, 4)]


def test_saves_nothing_before_its_time(tmp_path: Path) -> None:
    assert saves(tmp_path, 10.0) == [("save", 4)]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    assert saves(tmp_path, 0.0, every=2) == [("save", step) for step in (1, 2, 3, 4)]
