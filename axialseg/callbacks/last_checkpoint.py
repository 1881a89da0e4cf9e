"""The newest checkpoint of a run.

Lightning's `ModelCheckpoint` with `every_n_train_steps` leaves the very last step of a run unsaved,
and one that waits for the validation loses all steps before it if the validation is cut off.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from axialseg.machine.whole_file import whole_file


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/step_<n>.ckpt`, and `checkpoints/last.ckpt` as a link to it.

    Saved every so many optimiser steps, before a validation that falls on the same step, and at the
    end of the training; the older file is deleted when the newer one is complete.

    Args:
        every_n_steps: optimiser steps between two checkpoints; None saves at the end only.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        self.every_n_steps = every_n_steps
        self.saved_step = 0

    def save(self, trainer: pl.Trainer) -> None:
        """Saves now, unless this step is saved already. All ranks must call it."""
        step = trainer.global_step
        folder = Path(trainer.default_root_dir) / "checkpoints"
        path = folder / f"step_{step}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_step = step
        if trainer.is_global_zero:
            _link(folder / "last.ckpt", path.name)
            for older in folder.glob("step_*.ckpt"):
                if older != path:
                    older.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that starts at a step (0, or that of a checkpoint) has nothing to save there."""
        self.saved_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves every `every_n_steps` steps."""
        step = trainer.global_step
        is_due = self.every_n_steps is not None and step % self.every_n_steps == 0
        # With accumulated batches a step number lasts for several batches: the first one saves.
        if is_due and step != self.saved_step:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last step."""
        if trainer.global_step != self.saved_step:
            self.save(trainer)


def _link(link: Path, target: str) -> None:
    """Points `link` at `target` in the same folder, in one move."""
    with whole_file(link) as draft:
        draft.symlink_to(target)
