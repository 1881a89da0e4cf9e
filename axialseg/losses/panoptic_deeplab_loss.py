"""The loss of Panoptic-DeepLab: semantic cross-entropy, centre and offset regression.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.2; deeplab2 ``model/loss/loss_builder.py`` and
``base_loss.py``; factors from deeplab2's Cityscapes and COCO configurations.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.losses.losses import Losses
from axialseg.losses.top_k import average_top_k


class PanopticDeepLabLoss(nn.Module):
    """Three terms, computed at the resolution of the targets, in float32.

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
        semantic_weight: float,
        semantic_top_k: float,
        center_weight: float,
        offset_weight: float,
    ) -> None:
        super().__init__()
        self.ignore_class = ignore_class
        self.semantic_top_k = semantic_top_k
        self.weights = {
            "semantic": semantic_weight,
            "center": center_weight,
            "offset": offset_weight,
        }

    def forward(self, outputs: PanopticHeads, targets: Mapping[str, Tensor]) -> Losses:
        """The terms ``semantic``, ``center`` and ``offset``, and their weighted sum.

        Args:
            outputs: raw heads at any resolution; they are resized to that of the targets.
            targets: ``semantic`` int ``[B, H, W]``, class ids; ``center`` float ``[B, H, W]``;
                ``offset`` int or float ``[B, 2, H, W]``; and how much a pixel counts in each term,
                ``semantic_pixel_weights``, ``center_pixel_weights`` and ``offset_pixel_weights``,
                bool or float ``[B, H, W]``.
        """
        with torch.autocast(outputs.semantic.device.type, enabled=False):
            size = targets["semantic"].shape[-2:]
            heads = outputs.resized((size[0], size[1]))
            # ignore_index gives void pixels a loss of exactly 0, which the average leaves out.
            semantic = F.cross_entropy(
                heads.semantic.float(),
                targets["semantic"].long(),
                reduction="none",
                ignore_index=self.ignore_class,
            )
            center = (heads.center.float().squeeze(1) - targets["center"]).square()
            offset = (heads.offset.float() - targets["offset"]).abs().mean(1)
            errors = {"semantic": semantic, "center": center, "offset": offset}
            terms = {}
            for name, error in errors.items():
                weighted = (error * targets[f"{name}_pixel_weights"]).flatten(1)
                share = self.semantic_top_k if name == "semantic" else 1.0
                terms[name] = average_top_k(weighted, share)
            return Losses.weighted(terms, self.weights)
