"""The heads of MaX-DeepLab and kMaX-DeepLab: masks, their classes, a semantic segmentation.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.1 and 3.4; deeplab2
``model/decoder/max_deeplab.py``.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.panoptic_deeplab import PredictionHead
from axialseg.layers.activation import Activation
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm
from axialseg.layers.full_precision import full_precision, widened
from axialseg.layers.initialization import truncated_normal_
from axialseg.layers.resize import resize_bilinear

NO_OBJECT_PRIOR = 0.9  # share of the slots that "no object" is given before training


class SlotHeads(NamedTuple):
    """Raw masks of N slots, h and w at any stride; in float32 under autocast too, or in float64.

    Attributes:
        mask_logits: ``[B, N, h, w]``; a softmax over the slots gives their masks.
        class_logits: ``[B, N, classes + 1]``: things, then stuff, then "no object".
        pixel_embedding: ``[B, D, h, w]``, of length 1 at each pixel.
    """

    mask_logits: Tensor
    class_logits: Tensor
    pixel_embedding: Tensor

    def resized(self, size: tuple[int, int]) -> "SlotHeads":
        """At another resolution (H, W), aligned corners; embeddings between pixels are shorter."""
        return SlotHeads(
            resize_bilinear(self.mask_logits, size),
            self.class_logits,
            resize_bilinear(self.pixel_embedding, size),
        )


class MaskHeads(NamedTuple):
    """The raw heads of MaX-DeepLab, h and w at stride 4, N slots.

    They are in float32 under autocast too, or in float64.

    Attributes:
        mask_logits: ``[B, N, h, w]``; a softmax over the slots gives their masks.
        class_logits: ``[B, N, classes + 1]``: things, then stuff, then "no object".
        pixel_embedding: ``[B, D, h, w]``, of length 1 at each pixel.
        semantic: logits ``[B, semantic_channels, h, w]`` by class id, for an auxiliary loss.
    """

    mask_logits: Tensor
    class_logits: Tensor
    pixel_embedding: Tensor
    semantic: Tensor


class KMaxHeads(NamedTuple):
    """The raw heads of kMaX-DeepLab: `MaskHeads`, and what each k-means block predicted.

    The masks are at the stride of the pixel decoder's last stage; `semantic` may be at another one.

    Attributes:
        auxiliary: of each k-means block, at the stride of its pixel feature.
    """

    mask_logits: Tensor
    class_logits: Tensor
    pixel_embedding: Tensor
    semantic: Tensor
    auxiliary: tuple[SlotHeads, ...]


class MaskPredictor(nn.Module):
    """Masks are products of pixel embeddings and slot embeddings.

    Args:
        pixel_channels: channels of the pixel feature.
        slot_channels: channels of the slots' features.
        class_channels: classes and "no object".
        embedding_channels: D.
        pixel_head_channels: inner width of the pixel head.
        activation: of the pixel head.
    """

    def __init__(
        self,
        pixel_channels: int,
        slot_channels: int,
        class_channels: int,
        embedding_channels: int = 128,
        pixel_head_channels: int = 256,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.pixel_head = PredictionHead(
            pixel_channels, pixel_head_channels, embedding_channels, activation
        )
        self.pixel_norm = BatchNorm(embedding_channels)
        self.mask_head = ConvNorm(slot_channels, embedding_channels)
        # One scale for all mask logits; small at first, so that no slot takes all.
        self.mask_norm = BatchNorm(1, initial_gamma=0.1)
        self.class_head = nn.Conv2d(slot_channels, class_channels, 1)
        truncated_normal_(self.class_head.weight, 0.01)
        assert self.class_head.bias is not None
        nn.init.zeros_(self.class_head.bias)
        odds = NO_OBJECT_PRIOR / (1 - NO_OBJECT_PRIOR)
        self.no_object_bias = math.log(max(class_channels - 1, 1) * odds)

    def forward(
        self, pixel_feature: Tensor, class_feature: Tensor, mask_feature: Tensor
    ) -> SlotHeads:
        """Predicts masks.

        Args:
            pixel_feature: ``[B, C_p, h, w]``.
            class_feature: ``[B, C_s, N]``, activated.
            mask_feature: ``[B, C_s, N]``, activated.
        """
        embedding = self.pixel_head(pixel_feature)
        masks = self.mask_head(mask_feature.unsqueeze(-1)).squeeze(-1)  # [B, D, N]
        classes = self.class_head(class_feature.unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        with full_precision(embedding):
            embedding = self.pixel_norm(widened(embedding))
            squared = embedding.square().sum(1, keepdim=True)
            embedding = embedding * squared.clamp(min=1e-12).rsqrt()
            logits = torch.einsum("bdhw,bdn->bnhw", embedding, widened(masks))
            classes = widened(classes)
            bias = F.pad(classes.new_full((1,), self.no_object_bias), (classes.shape[-1] - 1, 0))
            return SlotHeads(
                self.mask_norm(logits.unsqueeze(1)).squeeze(1), classes + bias, embedding
            )


class MaxDeepLabHeads(MaskPredictor):
    """`MaskPredictor`, and a head for the auxiliary semantic segmentation.

    Args:
        semantic_feature_channels: channels of the semantic head's feature.
        semantic_channels: channels of the semantic head.
        semantic_head_channels: inner width of the semantic head.
        activation: of the pixel head and the semantic head.

    The other arguments are those of `MaskPredictor`.
    """

    def __init__(
        self,
        pixel_channels: int,
        slot_channels: int,
        semantic_feature_channels: int,
        class_channels: int,
        semantic_channels: int,
        embedding_channels: int = 128,
        pixel_head_channels: int = 256,
        semantic_head_channels: int = 256,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(
            pixel_channels,
            slot_channels,
            class_channels,
            embedding_channels,
            pixel_head_channels,
            activation,
        )
        self.semantic_head = PredictionHead(
            semantic_feature_channels, semantic_head_channels, semantic_channels, activation
        )

    def forward(  # type: ignore[override]
        self,
        pixel_feature: Tensor,
        class_feature: Tensor,
        mask_feature: Tensor,
        semantic_feature: Tensor,
    ) -> MaskHeads:
        """Predicts the raw heads.

        Args:
            pixel_feature: ``[B, C_p, h, w]``.
            class_feature: ``[B, C_s, N]``, activated.
            mask_feature: ``[B, C_s, N]``, activated.
            semantic_feature: ``[B, C_f, h', w']``.
        """
        slots = super().forward(pixel_feature, class_feature, mask_feature)
        return MaskHeads(*slots, widened(self.semantic_head(semantic_feature)))
