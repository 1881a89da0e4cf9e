"""How fast the training is and where the time of a step goes."""

import resource
import time
from collections import deque
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor


class _Step(NamedTuple):
    """One optimiser step; seconds, and images over all ranks."""

    images: int
    seconds: float
    data: float
    forward: float
    backward: float


class Speed(pl.Callback):
    """Logs ``speed/*`` of rank 0, as means over the steps between two logged values.

    ``images_per_second`` over all ranks; ``step_seconds``, of which ``data_seconds`` go to waiting
    for the loader and to the transfer, ``forward_seconds`` to network and loss,
    ``backward_seconds`` to gradients and their exchange between ranks, and the rest to optimiser,
    averages and logging; ``memory_gib``: the most that the run has held, of PyTorch on a GPU, of
    the process (without loader workers) on a CPU.

    A step that a validation or the saving of a checkpoint came before is left out.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._reset()

    def _reset(self) -> None:
        self._images = 0
        self._data = 0.0
        self._parts: dict[str, list[tuple[float | torch.cuda.Event, ...]]] = {
            "forward": [],
            "backward": [],
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; the first step, which warms everything up, does not count."""
        self._steps = deque(maxlen=trainer.log_every_n_steps)  # type: ignore[attr-defined]
        self._step = trainer.global_step
        self._is_interrupted = True
        self._step_started = self._batch_ended = time.monotonic()
        self._reset()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The data are there."""
        self._data += time.monotonic() - self._batch_ended
        self._mark = _mark(pl_module.device)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """The loss is there."""
        mark = _mark(pl_module.device)
        self._parts["forward"].append((self._mark, mark))
        self._mark = mark

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The gradients are there."""
        self._parts["backward"].append((self._mark, _mark(pl_module.device)))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Adds the step up, if it has ended, and logs."""
        now = self._batch_ended = time.monotonic()
        self._images += len(batch["image"]) * trainer.world_size
        if trainer.global_step == self._step:  # an accumulated batch: the step is not over
            return
        self._step = trainer.global_step
        if not self._is_interrupted:
            # The device has finished this step's gradients: they were looked at.
            parts = {
                name: sum(_seconds(*pair) for pair in pairs) for name, pairs in self._parts.items()
            }
            seconds = now - self._step_started
            self._steps.append(_Step(self._images, seconds, self._data, **parts))
        self._is_interrupted = False
        self._step_started = now
        self._reset()
        if self._steps:
            total = _Step(*(sum(values) for values in zip(*self._steps, strict=True)))
            values = {
                "images_per_second": total.images / max(total.seconds, 1e-9),
                "step_seconds": total.seconds / len(self._steps),
                "data_seconds": total.data / len(self._steps),
                "forward_seconds": total.forward / len(self._steps),
                "backward_seconds": total.backward / len(self._steps),
                "memory_gib": _memory(pl_module.device) / 2**30,
            }
            pl_module.log_dict({f"speed/{name}": value for name, value in values.items()})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the step that was interrupted out."""
        self._is_interrupted = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Likewise."""
        self._is_interrupted = True


def _mark(device: torch.device) -> float | torch.cuda.Event:
    """A point of time in the work of a device."""
    if device.type != "cuda":
        return time.monotonic()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    """Between two marks that lie behind the device."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


def _memory(device: torch.device) -> int:
    """Bytes at the peak of the run so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
