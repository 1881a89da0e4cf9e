"""Cross-entropy with label smoothing.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", sec. 7.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.losses.losses import Losses


class ClassificationLoss(nn.Module):
    """The error in each image's class.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
    """

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, batch: dict[str, Any]) -> Losses:
        """One term, ``cross_entropy``.

        Args:
            logits: float32 ``[B, C]``.
            batch: ``label`` int64 ``[B]``, 0..C-1.
        """
        losses = F.cross_entropy(
            logits, batch["label"], reduction="none", label_smoothing=self.label_smoothing
        )
        return Losses(losses, {"cross_entropy": losses})
