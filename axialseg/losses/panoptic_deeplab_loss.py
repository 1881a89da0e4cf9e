"""The loss of Panoptic-DeepLab: semantic cross-entropy, centre and offset regression.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.2; deeplab2 ``model/loss/loss_builder.py`` and
``base_loss.py``; factors from deeplab2's Cityscapes and COCO configurations.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.layers.full_precision import widened
from axialseg.losses.class_weights import weight_table
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
        thing_ids: class ids; they and the next are needed for class weights only.
        stuff_ids: class ids.
        class_weights: factor of the semantic cross-entropy at the pixels of each class, in
            ascending order of class ids; None is 1 for all.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        ignore_class: int,
        semantic_weight: float,
        semantic_top_k: float,
        center_weight: float,
        offset_weight: float,
        thing_ids: Sequence[int] = (),
        stuff_ids: Sequence[int] = (),
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.ignore_class = ignore_class
        self.semantic_top_k = semantic_top_k
        self.weights = {
            "semantic": semantic_weight,
            "center": center_weight,
            "offset": offset_weight,
        }
        table = weight_table(class_weights, (*thing_ids, *stuff_ids), ignore_class)
        self.register_buffer("class_weights", table, persistent=False)

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
            classes = targets["semantic"].long()
            semantic = F.cross_entropy(
                widened(heads.semantic), classes, reduction="none", ignore_index=self.ignore_class
            )
            if self.class_weights is not None:
                semantic = semantic * self.class_weights[classes]
            center = (widened(heads.center).squeeze(1) - targets["center"]).square()
            offset = (widened(heads.offset) - targets["offset"]).abs().mean(1)
            errors = {"semantic": semantic, "center": center, "offset": offset}
            terms = {}
            for name, error in errors.items():
                weighted = (error * targets[f"{name}_pixel_weights"]).flatten(1)
                share = self.semantic_top_k if name == "semantic" else 1.0
                terms[name] = average_top_k(weighted, share)
            return Losses.weighted(terms, self.weights)
