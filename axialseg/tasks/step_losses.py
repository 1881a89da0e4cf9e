"""The losses of one optimiser step, whatever number of batches and ranks it is spread over."""

import torch
import torch.distributed as dist
from torch import Tensor


class StepLosses:
    """Adds up the losses of the batches of a step.

    Attributes:
        means: name -> scalar: the means over all batches of the newest step and over all ranks;
            equal on every rank. Empty before the first step.
    """

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}
        self._batches: list[Tensor] = []

    def add(self, losses: dict[str, Tensor]) -> None:
        """Adds one batch of this rank.

        Args:
            losses: name -> scalar without gradient; the same names in each batch of a step.
        """
        self._names = list(losses)
        self._batches.append(torch.stack(list(losses.values())))

    def finish(self) -> dict[str, Tensor]:
        """Ends the step; all ranks must call it. Returns `means`."""
        total = torch.stack(self._batches).mean(0)
        self._batches = []
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        self.means = dict(zip(self._names, total.unbind(), strict=True))
        return self.means
