"""A loss term beside those of Panoptic-DeepLab: the centre heat-map shall be smooth."""

from collections.abc import Mapping

from torch import Tensor

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.losses.losses import Losses
from axialseg.losses.panoptic_deeplab_loss import PanopticDeepLabLoss


class SmoothCenterLoss(PanopticDeepLabLoss):
    def __init__(
        self,
        ignore_class: int,  # given by the program, as it follows from the data
        smooth_weight: float,
        semantic_weight: float,
        semantic_top_k: float,
        center_weight: float,
        offset_weight: float,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(
            ignore_class,
            semantic_weight,
            semantic_top_k,
            center_weight,
            offset_weight,
            class_weights=class_weights,
        )
        self.weights["smooth"] = smooth_weight

    def forward(self, outputs: PanopticHeads, targets: Mapping[str, Tensor]) -> Losses:
        smooth = outputs.center.float().diff(dim=-1).abs().mean((1, 2, 3))  # [B]
        terms = super().forward(outputs, targets).terms | {"smooth": smooth}
        return Losses.weighted(terms, self.weights)
