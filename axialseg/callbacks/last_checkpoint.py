"""The newest checkpoint of a run.

Lightning's `ModelCheckpoint` with `every_n_train_steps` does not save the last step of a run. If it
waits for the validation, all steps before it are lost when the validation is interrupted.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from axialseg.checkpoints.run_checkpoints import LAST, check_whole, step_files, step_of
from axialseg.loggers.csv import CsvLogger
from axialseg.machine.whole_file import whole_file

KEPT = 2  # the newest may be damaged later


class LastCheckpoint(Checkpoint):
    """Keeps the two newest `checkpoints/step_<n>.ckpt`, and `last.ckpt` as a link to the newest.

    It saves every `every_n_steps` optimiser steps, before each validation, and at the end of the
    training. An older file of this run is deleted when two newer ones are whole.

    Args:
        every_n_steps: optimiser steps between two checkpoints; None saves before validations and
            at the end only.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        self.every_n_steps = every_n_steps
        self.saved_step = 0
        self._files: list[Path] = []

    def save(self, trainer: pl.Trainer) -> None:
        """Saves now, unless this step is saved already. All ranks must call it."""
        step = trainer.global_step
        path = _folder(trainer) / f"step_{step}.ckpt"
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, CsvLogger):
                    logger.before_checkpoint()
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_step = step
        if trainer.is_global_zero:
            check_whole(path)
            _link(path.with_name(LAST), path.name)
            self._files = [*(file for file in self._files if file != path), path]
            for older in self._files[:-KEPT]:
                older.unlink(missing_ok=True)
            self._files = self._files[-KEPT:]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that starts at a step (0, or that of a checkpoint) has nothing to save there."""
        self.saved_step = trainer.global_step
        folder = _folder(trainer)
        resumed = Path(trainer.ckpt_path).resolve() if trainer.ckpt_path else None
        is_resumed_here = resumed is not None and resumed.parent == folder.resolve()
        earlier = [file for file in step_files(folder) if step_of(file) <= trainer.global_step]
        self._files = earlier[::-1] if is_resumed_here else []
        if trainer.is_global_zero:
            for draft in folder.glob(".*.ckpt"):  # of a process that was killed while it saved
                draft.unlink()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves every `every_n_steps` steps, and before a validation."""
        step = trainer.global_step
        is_due = self.every_n_steps is not None and step % self.every_n_steps == 0
        is_due |= is_validation_next(trainer)
        # With accumulated batches a step number lasts for several batches: the first one saves.
        if is_due and step != self.saved_step:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last step."""
        if trainer.global_step != self.saved_step:
            self.save(trainer)


def is_validation_next(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the training batch that is ending."""
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is not None or not trainer.limit_val_batches or not every:
        return False
    return (trainer.fit_loop.total_batch_idx + 1) % every == 0


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _link(link: Path, target: str) -> None:
    """Points `link` at `target` in the same folder, in one move."""
    if link.is_dir():
        link.rename(link.with_name(f"{link.name}.folder_before_{target}"))
    try:
        with whole_file(link) as draft:
            draft.symlink_to(target)
    except OSError:  # no links here: without one, the file of the newest step counts
        link.unlink(missing_ok=True)
