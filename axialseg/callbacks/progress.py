"""How far the training is, as plain lines that a terminal and a log file can both show."""

import logging
import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Progress(pl.Callback):
    """One line every so many steps, and at least one a minute.

    A line tells step, mean loss and loss terms since the last line, learning rate, images per
    second (training alone, all devices), time since the start and time left (validations included).

    Args:
        every_n_steps: optimiser steps between two lines.
        every_seconds: a line comes after this time even if the steps are not done.
    """

    def __init__(self, every_n_steps: int = 50, every_seconds: float = 60.0) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = every_seconds
        self._lr = 0.0
        self._first_step = self._step = 0
        self._started = 0.0
        self._validation_started = self._validation_line = 0.0
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
        self._started = time.monotonic()
        self._reset()
        if trainer.is_global_zero:
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

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
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
        """Adds the batch up; prints the line if it is due."""
        # Batches whose step is skipped would hide the others' mean.
        is_finite = outputs["loss"].isfinite()
        for name, value in outputs.items():
            self._sums[name] = self._sums.get(name, 0) + torch.where(is_finite, value, 0)
        self._finite = self._finite + is_finite.int()
        self._images += len(batch["image"]) * trainer.world_size
        if trainer.global_step == self._step:  # an accumulated batch: the step is not over
            return
        self._step = trainer.global_step
        is_late = time.monotonic() - self._line_started >= self.every_seconds
        is_due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        # Reading the sums waits for the device, so it is done for printed lines only.
        if is_due or is_late:
            if trainer.is_global_zero:
                log.info("%s", self._line(trainer))
            self._reset()

    def _line(self, trainer: pl.Trainer) -> str:
        now = time.monotonic()
        batches = max(int(self._finite), 1)
        means = {name: float(value) / batches for name, value in self._sums.items()}
        loss = means.pop("loss")
        terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        rate = self._images / max(now - self._line_started, 1e-9)
        elapsed = now - self._started
        left = elapsed / (self._step - self._first_step) * (trainer.max_steps - self._step)
        return (
            f"step {self._step:>{len(str(trainer.max_steps))}}/{trainer.max_steps}"
            f"  loss {loss:.3f} ({terms})  lr {self._lr:.2e}  {rate:.1f} images/s"
            f"  {clock(elapsed)} elapsed, {clock(left)} left"
        )

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
        self._line_started += time.monotonic() - self._validation_started


def clock(seconds: float) -> str:
    """Minutes and seconds ``m:ss``, or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
