"""The loss of Panoptic-DeepLab: semantic cross-entropy, centre and offset regression.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.2; deeplab2 ``model/loss/loss_builder.py`` and
``base_loss.py``; factors from deeplab2's Cityscapes and COCO configurations.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.losses.top_k import average_top_k


class PanopticHeads(Protocol):
    """What the loss reads: `axialseg.models.panoptic_deeplab.PanopticDeepLabOutput`."""

    semantic: Tensor
    center: Tensor
    offset: Tensor

    def resized(self, size: tuple[int, int]) -> "PanopticHeads":
        """The heads at another resolution."""
        ...


class PanopticDeepLabLoss(nn.Module):
    """Weighted terms, computed at the resolution of the targets, in float32.

    Args:
        ignore_class: class id without a semantic loss.
        semantic_weight: factor of the semantic cross-entropy.
        semantic_top_k: share of the pixels, the hardest, that the semantic loss averages over.
        center_weight: factor of the squared error of the centre heat-map.
        offset_weight: factor of the absolute error of the offsets.
    """

    def __init__(
        self,
        ignore_class: int,
        semantic_weight: float = 1.0,
        semantic_top_k: float = 0.2,
        center_weight: float = 200.0,
        offset_weight: float = 0.01,
    ) -> None:
        super().__init__()
        self.ignore_class = ignore_class
        self.semantic_weight = semantic_weight
        self.semantic_top_k = semantic_top_k
        self.center_weight = center_weight
        self.offset_weight = offset_weight

    def forward(self, outputs: PanopticHeads, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of each image, each float32 ``[B]`` that already has its factor.

        Args:
            outputs: raw heads at any resolution; they are resized to that of the targets.
            targets: ``semantic`` int ``[B, H, W]`` class ids; ``semantic_weight``, ``center`` float
                ``[B, H, W]``; ``center_weight``, ``offset_weight`` bool or float ``[B, H, W]``;
                ``offset`` int or float ``[B, 2, H, W]``.

        Returns:
            ``semantic``, ``center`` and ``offset``; their sum is the loss.
        """
        with torch.autocast(outputs.semantic.device.type, enabled=False):
            size = targets["semantic"].shape[-2:]
            heads = outputs.resized((size[0], size[1]))
            semantic = self.semantic_weight * self._semantic(heads.semantic.float(), targets)
            center_error = (heads.center.float().squeeze(1) - targets["center"]).square()
            center = average_top_k((center_error * targets["center_weight"]).flatten(1), 1.0)
            offset_error = (heads.offset.float() - targets["offset"]).abs().mean(1)
            offset = average_top_k((offset_error * targets["offset_weight"]).flatten(1), 1.0)
        return {
            "semantic": semantic,
            "center": self.center_weight * center,
            "offset": self.offset_weight * offset,
        }

    def _semantic(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        classes = targets["semantic"].long()
        # ignore_index gives void pixels a loss of exactly 0, which the average leaves out.
        losses = F.cross_entropy(logits, classes, reduction="none", ignore_index=self.ignore_class)
        weighted = losses * targets["semantic_weight"]
        return average_top_k(weighted.flatten(1), self.semantic_top_k)
