"""The newest checkpoint: when it is written, its link, and that older ones go."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint


class Saves(pl.Callback):
    """Notes the step of each checkpoint and of each validation, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        self.events.append(("save", trainer.global_step))

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.events.append(("validate", trainer.global_step))


def fit(folder: Path, every: int | None, max_steps: int = 7, **rest: Any) -> list[tuple[str, int]]:
    saves = Saves()
    trainer = toy_trainer(folder, max_steps, callbacks=[saves, LastCheckpoint(every)], **rest)
    trainer.fit(toy_task(), datamodule=ToyData())
    return saves.events


def test_saves_every_n_steps_and_the_last(tmp_path: Path) -> None:
    assert fit(tmp_path, 3) == [("save", 3), ("save", 6), ("save", 7)]
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step_7.ckpt"]
    assert (folder / "last.ckpt").is_symlink()
    assert (folder / "last.ckpt").readlink() == Path("step_7.ckpt")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 7


def test_saves_before_the_validation_and_the_end_once(tmp_path: Path) -> None:
    events = fit(tmp_path, 2, max_steps=4, val_check_interval=2)
    assert events == [("save", 2), ("validate", 2), ("save", 4), ("validate", 4)]


def test_without_interval_only_the_end_is_saved(tmp_path: Path) -> None:
    assert fit(tmp_path, None) == [("save", 7)]


def test_accumulated_batches_save_once_a_step(tmp_path: Path) -> None:
    assert fit(tmp_path, 2, max_steps=4, accumulate_grad_batches=3) == [("save", 2), ("save", 4)]


def test_the_older_file_survives_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pl.Trainer.save_checkpoint

    def full_disk(trainer: pl.Trainer, *arguments: Any, **rest: Any) -> None:
        if trainer.global_step == 6:
            raise OSError("no space left")
        original(trainer, *arguments, **rest)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full_disk)
    with pytest.raises(OSError, match="no space"):
        fit(tmp_path, 3)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
