"""Image classification on any backbone: the pre-training of Axial-DeepLab.

Source: Wang et al. 2020, "Axial-DeepLab", sec. 4.1 (ImageNet); He et al. 2016.
"""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """Backbone, mean over the deepest feature, and one linear layer.

    Args:
        backbone: maps (image, valid) to features by name and has `channels`; see `ResidualNetwork`.
        classes: number of classes.
        dropout: rate of the means that are dropped in training.
    """

    def __init__(self, backbone: nn.Module, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        channels = cast(Mapping[str, int], backbone.channels)["res5"]
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Class logits ``[B, classes]``.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.
        """
        feature = self.backbone(image, valid)["res5"]
        return self.classifier(self.dropout(feature.mean((2, 3))))
