"""Panoptic segmentation: the task that trains Panoptic-DeepLab and MaX-DeepLab."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from axialseg.inference.predict import PanopticPrediction, PostProcess, predict
from axialseg.inference.tiles import Tiles
from axialseg.layers.full_precision import widened
from axialseg.losses.losses import Losses
from axialseg.tasks.training_task import ParameterGroups, TrainingTask


class PanopticTask(TrainingTask):
    """Trains a net and predicts panoptic maps with it.

    Args:
        net: image ``[B, 3, H, W]`` in 0..255 and valid region ``[B, H, W]`` -> heads.
        loss: heads and batch -> losses of each image; see `TrainingTask`.
        postprocess: heads -> panoptic maps (see `axialseg.inference.predict.predict`).

    The other arguments are those of `TrainingTask`.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Any, dict[str, Any]], Losses],
        postprocess: PostProcess,
        optimizer: Callable[[ParameterGroups], Optimizer] | None,
        parameter_groups: Callable[[nn.Module], ParameterGroups] | None,
        curve: Callable[[int], float] | None,
        seed: int = 0,
        channels_last: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(net, loss, optimizer, parameter_groups, curve, seed, channels_last, config)
        self.postprocess = postprocess
        self.tiles: Tiles | None = None
        """How an evaluation cuts images that are too large for the network; None: not at all."""

    def training_losses(self, batch: dict[str, Any]) -> Losses:
        """The terms of the loss of the method."""
        outputs = self.net(batch["image"], batch["valid"])
        # In half precision, matching loses digits and sums over all pixels overflow.
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(_widened(outputs), batch)

    def validation_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> list[PanopticPrediction]:
        """Predictions at the images' original resolution, in the order of the batch."""
        return predict(self.net, self.postprocess, self.ordered(batch), self.tiles)


def _widened(outputs: Any) -> Any:
    """Heads, in tuples, with no tensor in half precision; None stays None."""
    if outputs is None or isinstance(outputs, Tensor):
        return None if outputs is None else widened(outputs)
    heads = [_widened(head) for head in outputs]
    return tuple(heads) if type(outputs) is tuple else type(outputs)(*heads)
