"""Says early that the loss runs away."""

import logging
from collections import deque
from typing import Any

import lightning.pytorch as pl

log = logging.getLogger(__name__)

AVERAGED = 5  # steps of which a mean is taken, so that one hard batch is no alarm
STEPS, GROWTH = 50, 10.0


class Divergence(pl.Callback):
    """Warns, once for each start, when the loss has grown tenfold within 50 steps.

    Compared are means of 5 steps (of fewer at the start): the newest one with the lowest of those
    50 steps. Steps whose loss is not finite are left to `StepGuard`.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=AVERAGED)
        self._means: deque[float] = deque(maxlen=STEPS + 1)
        self._step = 0
        self._is_said = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier training."""
        self._losses.clear()
        self._means.clear()
        self._step, self._is_said = trainer.global_step, False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Compares the newest steps with the best of the last 50."""
        if self._is_said or not trainer.is_global_zero or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        losses: dict[str, Any] = pl_module.step_losses.means  # type: ignore[union-attr,assignment]
        loss = losses["loss"]
        if not loss.isfinite():  # the guard has waited for the device already
            return
        self._losses.append(float(loss))
        self._means.append(sum(self._losses) / len(self._losses))
        lowest = min(self._means)
        is_sure = len(self._losses) == AVERAGED
        if is_sure and lowest > 0 and self._means[-1] >= GROWTH * lowest:
            self._is_said = True
            rate = max(trainer.lr_scheduler_configs[0].scheduler.base_lrs)
            log.warning(
                "Step %d: the loss has grown tenfold in %d steps, from %.3g to %.3g; the rate is "
                "too high. Start again with a third of it: schedule.lr=%.2g",
                *(self._step, STEPS, lowest, self._means[-1], rate / 3),
            )
