"""The newest checkpoint: when it is written, its link, and that older ones go."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.checkpoints.run_checkpoints import newest_checkpoint
from axialseg.errors import UserError


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
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["last.ckpt", "step_6.ckpt", "step_7.ckpt"]
    assert (folder / "last.ckpt").is_symlink()
    assert (folder / "last.ckpt").readlink() == Path("step_7.ckpt")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 7


def test_saves_before_the_validation_and_the_end_once(tmp_path: Path) -> None:
    events = fit(tmp_path, 2, max_steps=4, val_check_interval=2)
    assert events == [("save", 2), ("validate", 2), ("save", 4), ("validate", 4)]


def test_saves_before_a_validation_of_another_interval(tmp_path: Path) -> None:
    events = fit(tmp_path, 5, max_steps=6, val_check_interval=3)
    assert events == [
        *(("save", 3), ("validate", 3), ("save", 5)),
        *(("save", 6), ("validate", 6)),
    ]


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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_only_superseded_files_of_this_run_are_deleted(tmp_path: Path) -> None:
    """A run from elsewhere, in a folder that holds later and earlier steps of another one."""
    fit(tmp_path / "other", None, max_steps=2)
    place = tmp_path / "run/checkpoints"
    place.mkdir(parents=True)
    for step in (1, 40):
        (place / f"step_{step}.ckpt").write_bytes(b"of someone else")
    trainer = toy_trainer(tmp_path / "run", 6, callbacks=[LastCheckpoint(1)])
    checkpoint = tmp_path / "other/checkpoints/last.ckpt"
    trainer.fit(toy_task(), datamodule=ToyData(), ckpt_path=checkpoint, weights_only=True)
    assert names(tmp_path / "run") == [
        *("last.ckpt", "step_1.ckpt", "step_40.ckpt", "step_5.ckpt", "step_6.ckpt")
    ]


def test_a_resumed_run_clears_up_its_own_files(tmp_path: Path) -> None:
    fit(tmp_path, 1, max_steps=3)
    trainer = toy_trainer(tmp_path, 6, callbacks=[LastCheckpoint(1)])
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    trainer.fit(toy_task(), datamodule=ToyData(), ckpt_path=checkpoint, weights_only=True)
    assert names(tmp_path) == ["last.ckpt", "step_5.ckpt", "step_6.ckpt"]


def test_a_save_that_wrote_nothing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own atomic save keeps silent about a folder that may not be written."""
    original = pl.Trainer.save_checkpoint

    def silent(trainer: pl.Trainer, *arguments: Any, **rest: Any) -> None:
        if trainer.global_step < 6:
            original(trainer, *arguments, **rest)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", silent)
    with pytest.raises(UserError, match=r"step_6\.ckpt does not exist"):
        fit(tmp_path, 3)
    assert names(tmp_path) == ["last.ckpt", "step_3.ckpt"]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_a_folder_in_place_of_the_link_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/last.ckpt").mkdir(parents=True)
    fit(tmp_path, None)
    assert names(tmp_path) == [*("last.ckpt", "last.ckpt.folder_before_step_7.ckpt", "step_7.ckpt")]
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_without_links_the_newest_step_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(1, "Operation not permitted")

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"a copy of an older one")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    fit(tmp_path, 3)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints/step_7.ckpt"
