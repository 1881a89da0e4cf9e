"""Stops a run that a scheduler wants off the machine, so that it can go on later."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from axialseg.callbacks.last_checkpoint import LastCheckpoint

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Ends the process with code 75 ("try again", `os.EX_TEMPFAIL`) after a checkpoint."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


class Preemption(pl.Callback):
    """On SIGTERM or SIGUSR1 saves a checkpoint at the end of the step and ends with code 75.

    One rank that gets the signal stops all. During a validation the process ends at once if that
    step is saved already (see `LastCheckpoint`), else after the next training step.

    Args:
        agree_every_n_steps: training steps between two questions to the other ranks; a question
            makes each of them wait for the slowest.
    """

    def __init__(self, agree_every_n_steps: int = 10) -> None:
        self.agree_every_n_steps = agree_every_n_steps
        self._signalled = False
        self._earlier: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over the signals; Lightning's own handlers would end with code 0, unsaved."""
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in SIGNALS}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves and stops if any rank has been signalled."""
        if trainer.world_size > 1 and (batch_idx + 1) % self.agree_every_n_steps != 0:
            return
        if trainer.strategy.reduce_boolean_decision(self._signalled, all=False):
            checkpoint = _last_checkpoint(trainer)
            if checkpoint is not None and checkpoint.saved_step != trainer.global_step:
                checkpoint.save(trainer)
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops within a validation, where there is nothing to lose."""
        checkpoint = _last_checkpoint(trainer)
        is_saved = checkpoint is not None and checkpoint.saved_step == trainer.global_step
        if self._signalled and is_saved:
            self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _stop(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            log.info(
                "Stopped by a signal at step %d; resume=%s goes on from there.",
                trainer.global_step,
                trainer.default_root_dir,
            )
        raise Preempted


def _last_checkpoint(trainer: pl.Trainer) -> LastCheckpoint | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, LastCheckpoint)), None)
