"""Image classification on any backbone: the pre-training of Axial-DeepLab.

Source: Wang et al. 2020, "Axial-DeepLab", sec. 4.1 (ImageNet); He et al. 2016.
"""

from torch import Tensor, nn

from axialseg.backbones.backbone import Backbone


class ImageClassifier(nn.Module):
    """Backbone, mean over the deepest feature, and one linear layer.

    Args:
        backbone: see `Backbone`; of its features only ``res5`` is read.
        classes: number of classes.
        dropout: rate of the means that are dropped in training.
    """

    def __init__(self, backbone: Backbone, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.channels["res5"], classes)
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
