"""Stops a run on a signal, so that it can go on later."""

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.machine.child_process import STOP_SIGNALS

log = logging.getLogger(__name__)

# Some programs, as `timeout`, send a signal to the process and to its group: that is one request.
SAME_REQUEST_SECONDS = 1.0
INTERRUPTED = b"\nStopping after this step; press Ctrl-C again to stop at once, unsaved.\n"


class Preempted(SystemExit):
    """Ends the process with code 75 ("try again", `os.EX_TEMPFAIL`) after a checkpoint."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


class Preemption(pl.Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1 saves a checkpoint at the end of the step, ends with code 75.

    One rank that gets the signal stops all. During a validation the process ends at once, because
    `LastCheckpoint` has saved that step. A second Ctrl-C ends the process at once.

    Args:
        agree_every_n_steps: training steps between two questions to the other ranks; a question
            makes each of them wait for the slowest.
    """

    def __init__(self, agree_every_n_steps: int = 1) -> None:
        self.agree_every_n_steps = agree_every_n_steps
        self._signalled = False
        self._is_saved = False
        self._interrupted_at: float | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over the signals."""
        self._take_signals()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves if any rank has been signalled, between two optimiser steps.

        The process ends at the next hook, when the loggers have got the values of this step.
        """
        if (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches != 0:
            return
        if trainer.world_size > 1 and trainer.global_step % self.agree_every_n_steps != 0:
            return
        if trainer.strategy.reduce_boolean_decision(self._signalled, all=False):
            checkpoint = _last_checkpoint(trainer)
            if checkpoint is not None and checkpoint.saved_step != trainer.global_step:
                checkpoint.save(trainer)
            self._is_saved = True

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stops after the step that was saved."""
        if self._is_saved:
            self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over the signals, or stops before a validation, which is done later."""
        self._take_signals()
        if self._is_saved:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stops within a validation at once; the validation is done later."""
        if self._signalled:
            self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back, but for those that Lightning has given back to the process."""
        for number, handler in self._earlier.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._earlier = {}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self.teardown(trainer, pl_module, "")

    def _take_signals(self) -> None:
        """Sets handlers over Lightning's own, once.

        Lightning's, which it has set just before, end with code 0, unsaved, and wait for ever if
        not all ranks are signalled at once.
        """
        if threading.current_thread() is threading.main_thread() and not self._earlier:
            self._earlier = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            os.write(2, INTERRUPTED)  # a logger may be in the middle of a line
        elif now - self._interrupted_at > SAME_REQUEST_SECONDS:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    def _stop(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and _last_checkpoint(trainer) is not None:
            log.info(
                "Stopped by a signal at step %d; resume=%s goes on from there.",
                trainer.global_step,
                trainer.default_root_dir,
            )
        elif trainer.is_global_zero:
            log.info("Stopped by a signal; nothing was scored.")
        raise Preempted


def _last_checkpoint(trainer: pl.Trainer) -> LastCheckpoint | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, LastCheckpoint)), None)
