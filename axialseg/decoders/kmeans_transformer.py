"""The k-means transformer layer: slots are the centres of clusters of pixels.

Source: Yu et al. 2022, "k-means Mask Transformer" (arXiv 2207.04044), sec. 3.2, eq. 6 to 8 and fig.
2; deeplab2 ``model/layers/dual_path_transformer.py`` and ``model/transformer_decoder/kmax.py``.

Shapes: B batch, N slots, C channels of the centres, H and W of the pixel feature, P = H * W.
"""

from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import MaskPredictor, SlotHeads
from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, ConvNormAct
from axialseg.layers.drop_path import DropPath
from axialseg.layers.dual_path_transformer import (
    FeedForward,
    NormalizedAttention,
    attention_projection,
)
from axialseg.layers.full_precision import full_precision, widened


class MaskPredictorFactory(Protocol):
    """Makes a `MaskPredictor` for a width of pixels and slots."""

    def __call__(self, pixel_channels: int, slot_channels: int) -> MaskPredictor:
        """See `MaskPredictor`."""
        ...


class Clustered(NamedTuple):
    """What a k-means layer returns.

    Attributes:
        centers: ``[B, C, N]``, activated.
        heads: the masks that decided which pixel belongs to which slot, at the pixels' stride.
    """

    centers: Tensor
    heads: SlotHeads


class KMeansTransformer(nn.Module):
    """One step of k-means, self-attention of the slots, and a feed-forward network.

    Each pixel goes to the one slot with the best mask logit, and no gradient passes through that.
    A slot takes the sum of the values of its pixels. The pixels stay as they are.

    Args:
        pixel_channels: channels of the pixel feature.
        center_channels: C.
        predictor: makes the predictor of the masks, which are an auxiliary output too.
        channels: of the keys of the self-attention; bottleneck and values have twice as many.
        heads: of the self-attention; divides `channels`.
        feed_forward_channels: hidden width of the feed-forward network.
        keep_probability: of each of the three residual branches in training, see `DropPath`.
        activation: of all layers.

    Raises:
        ValueError: heads do not divide the channels.
    """

    def __init__(
        self,
        pixel_channels: int,
        center_channels: int,
        predictor: MaskPredictorFactory,
        channels: int = 128,
        heads: int = 8,
        feed_forward_channels: int = 2048,
        keep_probability: float = 1.0,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        width = 2 * channels
        self.heads = heads
        self.qkv_channels = (channels, channels, width)
        self.activation = activation_function(activation)
        self.center_conv1 = ConvNormAct(center_channels, width, activation=activation)
        self.pixel_conv1 = ConvNormAct(pixel_channels, width, activation=activation)
        self.predictor = predictor(width, width)

        self.pixel_value = attention_projection(width, width)
        self.kmeans_norm = BatchNorm(width)
        self.kmeans_conv3 = ConvNorm(width, center_channels, initial_gamma=0.0)
        self.kmeans_drop_path = DropPath(keep_probability)

        self.center_qkv = attention_projection(width, 2 * channels + width)
        self.center_attention = NormalizedAttention(heads, width, activation)
        self.center_conv3 = ConvNorm(width, center_channels, initial_gamma=0.0)
        self.center_drop_path = DropPath(keep_probability)

        self.feed_forward = FeedForward(center_channels, feed_forward_channels, activation)
        self.feed_forward_drop_path = DropPath(keep_probability)

    def forward(self, pixels: Tensor, centers: Tensor) -> Clustered:
        """Updates the centres.

        Args:
            pixels: ``[B, C_p, H, W]``, before activation.
            centers: ``[B, C, N]``, after activation.
        """
        slots = self.center_conv1(centers.unsqueeze(-1))
        read = self.pixel_conv1(self.activation(pixels))
        heads = self.predictor(read, slots.squeeze(-1), slots.squeeze(-1))
        # Both branches start from the old centres.
        update = self.kmeans_drop_path(self._of_clusters(self.pixel_value(read), heads.mask_logits))
        update = update + self.center_drop_path(self._of_slots(slots))
        updated = self.activation(centers + update)
        branch = self.feed_forward_drop_path(self.feed_forward(updated))
        return Clustered(self.activation(updated + branch), heads)

    def _of_clusters(self, value: Tensor, mask_logits: Tensor) -> Tensor:
        """The k-means branch ``[B, C, N]`` from value ``[B, V, H, W]``."""
        with full_precision(value):  # a sum of thousands of pixels
            value = widened(value).flatten(2)
            nearest = mask_logits.argmax(1).flatten(1)  # the first one, if several are best
            belongs = F.one_hot(nearest, mask_logits.shape[1]).to(value.dtype)  # [B, P, N]
            summed = self.kmeans_norm(value @ belongs)
        branch: Tensor = self.kmeans_conv3(summed.unsqueeze(-1)).squeeze(-1)
        return branch

    def _of_slots(self, slots: Tensor) -> Tensor:
        """The self-attention branch ``[B, C, N]`` from slots ``[B, V, N, 1]``."""
        parts = self.center_qkv(slots).flatten(2).split(self.qkv_channels, dim=1)
        query, key, value = (part.unflatten(1, (self.heads, -1)) for part in parts)
        retrieved = self.center_attention(query, key, value)
        branch: Tensor = self.center_conv3(retrieved.unsqueeze(-1)).squeeze(-1)
        return branch
