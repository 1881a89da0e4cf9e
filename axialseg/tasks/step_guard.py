"""Drops optimiser steps whose gradients are not finite, before they ruin the weights."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from axialseg.errors import RunFailedError

log = logging.getLogger(__name__)

# After so many in a row, the weights, the rate or the data are wrong, and not one image.
LIMIT_IN_A_ROW = 50


class StepGuard:
    """Watches the losses of a step; decides whether the optimiser may use its gradients.

    A loss that is not finite is multiplied by NaN, so that every gradient of the step is NaN. When
    the ranks have averaged their gradients, each rank sees it and drops the same step without a
    message of its own. The running statistics of the batch norms are put back too. Otherwise one
    bad image would make every later evaluation NaN.

    Args:
        net: the network that is trained.
        name_images: indices of images ``[B]`` -> their names, for the report.
    """

    def __init__(self, net: nn.Module, name_images: Callable[[Tensor], list[str]]) -> None:
        self.skipped_steps = 0
        self.gradient_norm: Tensor | float = 0.0
        """Of the newest step that was checked: of all gradients together; not finite if skipped."""
        self._net = net
        self._name_images = name_images
        self.skipped_in_a_row = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._watched: list[tuple[Tensor, Tensor]] = []

    def before_forward(self) -> None:
        """Remembers the running statistics, once per optimiser step."""
        if not self._watched:
            self._statistics = [
                (buffer, buffer.clone())
                for buffer in self._net.buffers()
                if buffer.is_floating_point()
            ]

    def watch(self, losses: Tensor, index: Tensor) -> Tensor:
        """Notes the losses of one batch.

        Args:
            losses: ``[B]``, one for each image.
            index: int64 ``[B]``, indices of the images in the data set.

        Returns:
            The mean for the backward pass; NaN with NaN gradients unless all are finite.
        """
        is_finite = torch.isfinite(losses.detach())
        self._watched.append((is_finite, index))
        return losses.mean() * torch.where(is_finite.all(), 1.0, torch.nan)

    def check(self, parameters: Iterable[nn.Parameter], step: str = "A step") -> bool:
        """Drops the gradients, so that the optimiser does nothing, unless all are finite.

        Args:
            parameters: what the optimiser is about to step.
            step: what the report calls the step.

        Returns:
            Whether the step goes ahead.

        Raises:
            RunFailedError: too many steps in a row were dropped.
        """
        watched, self._watched = self._watched, []
        stepped = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in stepped if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        self.gradient_norm = norms.norm()
        if norms.isfinite().all():  # waits for the device, once
            self.skipped_in_a_row = 0
            return True
        for parameter in stepped:
            parameter.grad = None
        for buffer, before in self._statistics:
            buffer.copy_(before)
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        self._report(watched, step)
        if self.skipped_in_a_row >= LIMIT_IN_A_ROW:
            raise RunFailedError(
                f"the last {LIMIT_IN_A_ROW} steps had no finite loss or gradient; go on from an "
                "earlier checkpoint with a lower schedule.lr, or look at the images that are named "
                "above"
            )
        return False

    def _report(self, watched: list[tuple[Tensor, Tensor]], step: str) -> None:
        """Names the images whose loss is to blame, on their rank."""
        blamed = torch.cat([index[~is_finite] for is_finite, index in watched])
        if len(blamed):
            names = self._name_images(blamed)
            log.warning(
                "%s is skipped, because its loss is not finite; images: %s", step, ", ".join(names)
            )
        else:
            log.warning("%s is skipped, because a gradient is not finite", step)
