"""A loss term beside those of Panoptic-DeepLab: the centre heat-map shall be smooth."""

from collections.abc import Mapping

from torch import Tensor

from axialseg.losses.panoptic_deeplab_loss import PanopticDeepLabLoss, PanopticHeads


class SmoothCenterLoss(PanopticDeepLabLoss):
    def __init__(
        self,
        ignore_class: int,  # given by the program, as it follows from the data
        smooth_weight: float,
        semantic_weight: float,
        semantic_top_k: float,
        center_weight: float,
        offset_weight: float,
    ) -> None:
        super().__init__(
            ignore_class, semantic_weight, semantic_top_k, center_weight, offset_weight
        )
        self.smooth_weight = smooth_weight

    def forward(self, outputs: PanopticHeads, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        steps = outputs.center.float().diff(dim=-1).abs().mean((1, 2, 3))  # [B]
        return super().forward(outputs, targets) | {"smooth": self.smooth_weight * steps}
