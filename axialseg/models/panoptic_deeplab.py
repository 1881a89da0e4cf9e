"""Panoptic-DeepLab on any backbone; with an axial backbone it is Axial-DeepLab.

Source: Cheng et al. 2020, "Panoptic-DeepLab"; Wang et al. 2020, "Axial-DeepLab", sec. 4.1;
deeplab2 ``model/deeplab.py``. ``axial_deeplab_*`` and ``axial_swidernet_*`` are configurations of
this model.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from axialseg.backbones.backbone import Backbone
from axialseg.decoders.panoptic_deeplab import PanopticDeepLabDecoder, PanopticHeads, PredictionHead


class DecoderFactory(Protocol):
    """Makes a decoder for the backbone's feature channels."""

    def __call__(self, feature_channels: Mapping[str, int]) -> PanopticDeepLabDecoder:
        """See `PanopticDeepLabDecoder`."""
        ...


class PanopticDeepLab(nn.Module):
    """Backbone, two decoders and three heads.

    Args:
        backbone: see `Backbone`.
        semantic_channels: classes of the semantic head (`Categories.semantic_channels`).
        semantic_decoder: makes the decoder of the semantic head.
        instance_decoder: makes the decoder that the centre and offset heads share.
        semantic_head_channels: inner width of the semantic head.
        instance_head_channels: inner width of the centre and offset heads.
    """

    def __init__(
        self,
        backbone: Backbone,
        semantic_channels: int,
        semantic_decoder: DecoderFactory,
        instance_decoder: DecoderFactory,
        semantic_head_channels: int = 256,
        instance_head_channels: int = 32,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.semantic_decoder = semantic_decoder(backbone.channels)
        self.instance_decoder = instance_decoder(backbone.channels)
        semantic, instance = self.semantic_decoder.out_channels, self.instance_decoder.out_channels
        self.semantic_head = PredictionHead(semantic, semantic_head_channels, semantic_channels)
        self.center_head = PredictionHead(instance, instance_head_channels, 1)
        self.offset_head = PredictionHead(instance, instance_head_channels, 2)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> PanopticHeads:
        """Predicts the raw heads at stride 4.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.
        """
        features = self.backbone(image, valid)
        semantic = self.semantic_decoder(features)
        instance = self.instance_decoder(features)
        return PanopticHeads(
            self.semantic_head(semantic), self.center_head(instance), self.offset_head(instance)
        )
