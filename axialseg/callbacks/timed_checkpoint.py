"""A checkpoint after some minutes, however slow the steps and however rare the validations are."""

import time
from typing import Any

import lightning.pytorch as pl

from axialseg.callbacks.last_checkpoint import LastCheckpoint

ASKED_EVERY = 10  # batches between two questions to the other ranks, each of which makes them wait


class TimedCheckpoint(pl.Callback):
    """Lets `LastCheckpoint` save when its newest file is older than so many minutes.

    Args:
        every_minutes: most minutes of training that can be lost, but for the step that is running.
    """

    def __init__(self, every_minutes: float = 10.0) -> None:
        self.every_minutes = every_minutes
        self._saved_step = 0
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves if it is time; rank 0 has the clock."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        last = next((c for c in callbacks if isinstance(c, LastCheckpoint)), None)
        if last is None or (trainer.world_size > 1 and (batch_idx + 1) % ASKED_EVERY):
            return
        if last.saved_step != self._saved_step:
            self._saved_step, self._saved_at = last.saved_step, time.monotonic()
        is_due = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if trainer.strategy.broadcast(is_due) and trainer.global_step != last.saved_step:
            last.save(trainer)
