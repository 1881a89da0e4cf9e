"""kMaX-DeepLab: masks as clusters of pixels, by a transformer that does k-means.

Source: Yu et al. 2022, "k-means Mask Transformer" (arXiv 2207.04044), sec. 3.3; deeplab2
``model/deeplab.py`` and ``model/kmax_deeplab.py``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from axialseg.backbones.backbone import Backbone, RawBackbone
from axialseg.decoders.kmeans_transformer import KMeansTransformer, MaskPredictorFactory
from axialseg.decoders.max_deeplab import KMaxHeads, MaskPredictor, MaxDeepLabHeads, SlotHeads
from axialseg.decoders.pixel_decoder import PixelDecoder
from axialseg.layers.activation import Activation
from axialseg.layers.convolution import ConvNormAct
from axialseg.layers.initialization import truncated_normal_
from axialseg.models.panoptic_deeplab import DecoderFactory


class PixelDecoderFactory(Protocol):
    """Makes a pixel decoder for the channels of a backbone's features."""

    def __call__(self, feature_channels: Mapping[str, int]) -> PixelDecoder:
        """See `PixelDecoder`."""
        ...


class KMeansTransformerFactory(Protocol):
    """Makes a k-means layer; `KMeansTransformer` with its options set is one."""

    def __call__(
        self, pixel_channels: int, center_channels: int, *, predictor: MaskPredictorFactory
    ) -> KMeansTransformer:
        """See `KMeansTransformer`."""
        ...


class KMaxDeepLab(nn.Module):
    """Backbone, pixel decoder, k-means layers, and three heads.

    Args:
        backbone: see `Backbone`, with output stride 32. A `RawBackbone` hands over its features
            before their activation, as the authors have it; any other its features as they are.
        semantic_channels: channels of the auxiliary semantic head.
        pixel_decoder: makes the pixel decoder; its last stage is at the stride of the masks.
        transformer: makes a k-means layer.
        transformer_blocks: k-means layers that read the pixel decoder's first stages, for each.
        semantic_decoder: makes the decoder of the auxiliary semantic head; None lets the head read
            the deepest stage.
        class_channels: classes and "no object"; None is `semantic_channels`, right where the
            channels of the semantic head are the classes and void (COCO).
        slots: N, masks that can be predicted for an image.
        center_channels: channels of the cluster centres.
        slot_channels: width of the slots' features for masks and classes.
        embedding_channels: of pixels and of slots, whose products are the masks.
        pixel_head_channels: inner width of the pixel heads, the k-means layers' too.
        semantic_head_channels: inner width of the semantic head.
        activation: of the heads and the slots' features.
    """

    def __init__(
        self,
        backbone: Backbone,
        semantic_channels: int,
        pixel_decoder: PixelDecoderFactory,
        transformer: KMeansTransformerFactory,
        transformer_blocks: Sequence[int],
        semantic_decoder: DecoderFactory | None,
        class_channels: int | None = None,
        slots: int = 128,
        center_channels: int = 256,
        slot_channels: int = 256,
        embedding_channels: int = 128,
        pixel_head_channels: int = 256,
        semantic_head_channels: int = 256,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        classes = semantic_channels if class_channels is None else class_channels
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder(backbone.channels)
        self.cluster_centers = nn.Parameter(
            truncated_normal_(torch.empty(1, slots, center_channels), 1.0)
        )
        self.read_stages = [i for i, count in enumerate(transformer_blocks) for _ in range(count)]
        predictor = partial(
            MaskPredictor,
            class_channels=classes,
            embedding_channels=embedding_channels,
            pixel_head_channels=pixel_head_channels,
            activation=activation,
        )
        self.transformers = nn.ModuleList(
            transformer(self.pixel_decoder.channels[i], center_channels, predictor=predictor)
            for i in self.read_stages
        )
        self.class_feature = ConvNormAct(center_channels, slot_channels, activation=activation)
        self.mask_feature = ConvNormAct(center_channels, slot_channels, activation=activation)
        self.semantic_decoder = (
            None if semantic_decoder is None else semantic_decoder(backbone.channels)
        )
        self.heads = MaxDeepLabHeads(
            self.pixel_decoder.channels[-1],
            slot_channels,
            backbone.channels["res5"]
            if self.semantic_decoder is None
            else self.semantic_decoder.out_channels,
            classes,
            semantic_channels,
            embedding_channels,
            pixel_head_channels,
            semantic_head_channels,
            activation,
        )

    def forward(self, image: Tensor, valid: Tensor | None = None) -> KMaxHeads:
        """Predicts the raw heads.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.
        """
        if isinstance(self.backbone, RawBackbone):
            raw_stages = self.backbone.raw_stages(image, valid)
            features = self.backbone.activated(raw_stages)
            raw = {name.replace("stage", "res"): x for name, x in raw_stages.items()}
        else:
            features = self.backbone(image, valid)
            raw = dict(features)
        pixels = self.pixel_decoder(raw)
        centers = self.cluster_centers.transpose(1, 2).expand(image.shape[0], -1, -1)
        auxiliary: list[SlotHeads] = []
        for transformer, stage in zip(self.transformers, self.read_stages, strict=True):
            centers, predicted = transformer(pixels[stage], centers)
            auxiliary.append(predicted)
        semantic = raw["res5"]  # in the authors' semantic branch too it is not activated
        if self.semantic_decoder is not None:
            semantic = self.semantic_decoder({**features, "res5": semantic})
        slots = centers.unsqueeze(-1)
        heads = self.heads(
            pixels[-1],
            self.class_feature(slots).squeeze(-1),
            self.mask_feature(slots).squeeze(-1),
            semantic,
        )
        return KMaxHeads(
            heads.mask_logits,
            heads.class_logits,
            heads.pixel_embedding,
            heads.semantic,
            tuple(auxiliary),
        )
