"""Progress of the training as plain lines, for terminals and log files."""

import logging
import threading
import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

GRACE = 5.0  # a line with losses may come first within so many seconds, or within two steps

log = logging.getLogger(__name__)


class Progress(pl.Callback):
    """One line every so many steps, and at least one a minute; the first one within 15 seconds.

    A line tells step, mean loss and loss terms since the last line (over all ranks and accumulated
    batches), learning rate, images per second (training alone, all devices), time since the start
    and time left. The time left counts the validations to come at the time of those that were;
    before the first one it says so.

    Where a step takes longer than that, a line says how far the training is, without its losses.

    Args:
        every_n_steps: optimiser steps between two lines.
        every_seconds: a line comes after this time even if the steps are not done.
        first_seconds: the same of the first line.
    """

    def __init__(
        self, every_n_steps: int = 50, every_seconds: float = 60.0, first_seconds: float = 15.0
    ) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = every_seconds
        self.first_seconds = first_seconds
        self._lr = 0.0
        self._first_step = self._step = 0
        self._started = 0.0
        self._validation_started = self._validation_line = 0.0
        self._validating = 0.0
        self._validations = 0
        self._seen = 0.0  # time of the last line of any kind
        self._lines = 0
        self._ended = threading.Event()
        self._reset()

    def _reset(self) -> None:
        """Forgets the values of the line before."""
        self._sums: dict[str, Tensor] = {}
        self._finite: Tensor | int = 0
        self._images = 0
        self._line_started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says what is trained."""
        self._first_step = self._step = trainer.global_step
        self._started = self._seen = time.monotonic()
        self._validating, self._validations, self._lines = 0.0, 0, 0
        self._reset()
        if trainer.is_global_zero:
            self._ended = threading.Event()
            threading.Thread(target=self._watch, args=(trainer, self._ended), daemon=True).start()
            weights = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            log.info(
                "Training %s parameters from step %d to %d on %d x %s, %s",
                f"{weights:,}",
                trainer.global_step,
                trainer.max_steps,
                trainer.world_size,
                trainer.strategy.root_device.type,
                trainer.precision,
            )

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keeps the rate of this step: at its end the optimiser already has the next one."""
        self._lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Adds the step up; prints the line if it is due."""
        self._images += len(batch["image"]) * trainer.world_size
        if trainer.global_step == self._step:  # an accumulated batch: the step is not over
            return
        self._step = trainer.global_step
        losses: dict[str, Tensor] = pl_module.step_losses.means  # type: ignore[union-attr,assignment]
        # A step that is skipped would hide the others' mean.
        is_finite = losses["loss"].isfinite()
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + torch.where(is_finite, value, 0)
        self._finite = self._finite + is_finite.int()
        patience = self.every_seconds if self._lines else self.first_seconds
        is_late = time.monotonic() - self._line_started >= patience
        is_due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        # Reading the sums waits for the device, so it is done for printed lines only.
        if is_due or is_late:
            if trainer.is_global_zero:
                log.info("%s", self._line(trainer))
                self._seen, self._lines = time.monotonic(), self._lines + 1
            self._reset()

    def _line(self, trainer: pl.Trainer) -> str:
        now = time.monotonic()
        steps = max(int(self._finite), 1)
        means = {name: float(value) / steps for name, value in self._sums.items()}
        loss = means.pop("loss")
        terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        rate = self._images / max(now - self._line_started, 1e-9)
        return (
            f"step {self._step:>{len(str(trainer.max_steps))}}/{trainer.max_steps}"
            f"  loss {loss:.3f} ({terms})  lr {self._lr:.2e}  {rate:.1f} images/s"
            f"  {clock(now - self._started)} elapsed, {self._left(trainer, now)}"
        )

    def _left(self, trainer: pl.Trainer, now: float) -> str:
        """The time until the end, as far as it can be known."""
        training = now - self._started - self._validating
        left = training / (self._step - self._first_step) * (trainer.max_steps - self._step)
        every = _steps_between_validations(trainer)
        to_come = -(-trainer.max_steps // every) - self._step // every if every else 0
        if to_come and not self._validations:
            return f"{clock(left)} left and {to_come} validation{'s' * (to_come > 1)}"
        return f"{clock(left + to_come * self._validating / max(self._validations, 1))} left"

    def _watch(self, trainer: pl.Trainer, ended: threading.Event) -> None:
        """Runs beside the training and says that it is alive if no step has ended for long."""
        while not ended.wait(0.2):
            now = time.monotonic()
            done = self._step - self._first_step
            patience = self.first_seconds
            if self._lines:  # a line with losses, at the end of a step, comes first if it can
                two_steps = 2 * (now - self._started - self._validating) / done if done else 0.0
                patience = self.every_seconds + max(GRACE, min(two_steps, self.every_seconds))
            if now - self._seen < patience or trainer.validating:
                continue
            self._seen, self._lines = now, self._lines + 1
            elapsed = clock(now - self._started)
            if done:
                step = f"step {self._step}/{trainer.max_steps}"
                log.info("%s  %s elapsed, %s", step, elapsed, self._left(trainer, now))
            else:
                log.info("step %d is running, %s so far", self._step + 1, elapsed)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the training's clock."""
        self._validation_started = self._validation_line = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows that a long validation is alive."""
        now = time.monotonic()
        if now - self._validation_line >= self.every_seconds and trainer.is_global_zero:
            self._validation_line = now
            total = trainer.num_val_batches[dataloader_idx]
            log.info("validation batch %d/%s", batch_idx + 1, total)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the validation out of images per second."""
        took = time.monotonic() - self._validation_started
        self._line_started += took
        self._validating, self._validations = self._validating + took, self._validations + 1
        self._seen = time.monotonic()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ends the watch."""
        self._ended.set()

    def on_exception(self, *_: Any) -> None:
        """Ends the watch."""
        self._ended.set()


def _steps_between_validations(trainer: pl.Trainer) -> int:
    """Optimiser steps; 0 if there is no validation."""
    batches = trainer.val_check_batch
    if not trainer.limit_val_batches or batches in (None, float("inf")):
        return 0
    return max(int(batches) // trainer.accumulate_grad_batches, 1)


def clock(seconds: float) -> str:
    """Minutes and seconds ``m:ss``, or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
