"""The dual-path transformer layer: a memory of slots and the pixels read from each other.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.3 and fig. 3; checked against
deeplab2 ``model/layers/dual_path_transformer.py``. Of the four attentions of a dual-path block
three are here: memory to pixels (M2P), memory to memory (M2M) and pixels to memory (P2M). Pixels to
pixels (P2P) is the residual block in front, usually an axial one.

Shapes: B batch, C channels, N slots of the memory, H and W of the pixel feature, h heads, K and V
channels of all heads' keys and values, Q queries, M keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, ConvNormAct
from axialseg.layers.drop_path import DropPath
from axialseg.layers.full_precision import full_precision, widened
from axialseg.layers.initialization import truncated_normal_


class NormalizedAttention(nn.Module):
    """Multi-head attention with batch norms in place of 1/sqrt(d).

    The logits are normalised for each head before the softmax. What is retrieved is normalised for
    each head and channel and then activated. All of this is in float32 under autocast too, because
    the logits are not scaled down, and they are few.

    Args:
        heads: h.
        value_channels: V.
        activation: of what is retrieved.
    """

    def __init__(self, heads: int, value_channels: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.similarity_norm = BatchNorm(heads)
        self.retrieval_norm = BatchNorm(value_channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Retrieves values.

        Args:
            query: ``[B, h, K/h, Q]``.
            key: ``[B, h, K/h, M]``.
            value: ``[B, h, V/h, M]``.

        Returns:
            ``[B, V, Q]``, activated, in float32 or float64.
        """
        with full_precision(query):
            query, key, value = widened(query), widened(key), widened(value)
            logits = self.similarity_norm(query.transpose(-1, -2) @ key)
            retrieved = value @ logits.softmax(-1).transpose(-1, -2)  # [B, h, V/h, Q]
            return self.activation(self.retrieval_norm(retrieved.flatten(1, 2)))


class DualPathTransformer(nn.Module):
    """Memory and pixels, each a residual stream, attend to the memory and to each other.

    The pixel stream is kept before activation, as residual blocks keep it; the memory after it.

    Args:
        pixel_channels: channels of the pixel feature.
        memory_channels: channels of the memory.
        channels: K; the bottleneck and V have twice as many.
        heads: h; divides K and V.
        feed_forward_channels: hidden width of the memory's feed-forward network; 0 leaves it out.
        memory_to_memory: slots attend to slots too (M2M), in one softmax with the pixels.
        pixel_to_memory: pixels attend to slots (P2M); if not, the pixels stay as they are.
        keep_probability: of each of the three residual branches in training, see `DropPath`.

    Raises:
        ValueError: if heads do not divide the channels.
    """

    def __init__(
        self,
        pixel_channels: int,
        memory_channels: int,
        channels: int,
        heads: int = 8,
        feed_forward_channels: int = 2048,
        memory_to_memory: bool = True,
        pixel_to_memory: bool = True,
        keep_probability: float = 1.0,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        key, value, bottleneck = channels, 2 * channels, 2 * channels
        self.heads = heads
        self.memory_to_memory = memory_to_memory
        self.key_channels, self.value_channels = key, value

        self.memory_conv1 = ConvNormAct(memory_channels, bottleneck)
        self.pixel_conv1 = ConvNormAct(pixel_channels, bottleneck)
        # The memory's keys and values, or the pixels' queries, are left out if nothing reads them.
        self.memory_qkv: ConvNorm | None = None
        self.memory_query: ConvNorm | None = None
        if memory_to_memory or pixel_to_memory:
            self.memory_qkv = attention_projection(bottleneck, 2 * key + value)
        else:
            self.memory_query = attention_projection(bottleneck, key)
        self.memory_attention = NormalizedAttention(heads, value)
        self.memory_conv3 = ConvNorm(value, memory_channels, initial_gamma=0.0)
        self.memory_drop_path = DropPath(keep_probability)

        self.feed_forward: FeedForward | None = None
        if feed_forward_channels:
            self.feed_forward = FeedForward(memory_channels, feed_forward_channels)
        self.feed_forward_drop_path = DropPath(keep_probability)

        self.pixel_qkv: ConvNorm | None = None
        self.pixel_kv: ConvNorm | None = None
        self.pixel_attention: NormalizedAttention | None = None
        self.pixel_conv3: ConvNorm | None = None
        if pixel_to_memory:
            self.pixel_qkv = attention_projection(bottleneck, 2 * key + value)
            self.pixel_attention = NormalizedAttention(heads, value)
            self.pixel_conv3 = ConvNorm(value, pixel_channels, initial_gamma=0.0)
        else:
            self.pixel_kv = attention_projection(bottleneck, key + value)
        self.pixel_drop_path = DropPath(keep_probability)

    def forward(self, pixels: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Updates both streams.

        Args:
            pixels: ``[B, C_p, H, W]``, before activation.
            memory: ``[B, C_m, N]``, after activation.

        Returns:
            Pixels and memory, shaped and activated like the inputs.
        """
        slots = self.memory_conv1(memory.unsqueeze(-1))
        if self.memory_qkv is not None:
            memory_query, memory_key, memory_value = self._heads(self.memory_qkv(slots))
        else:
            assert self.memory_query is not None
            memory_query = self.memory_query(slots).flatten(2).unflatten(1, (self.heads, -1))
        read = self.pixel_conv1(F.relu(pixels))
        if self.pixel_qkv is not None:
            pixel_query, pixel_key, pixel_value = self._heads(self.pixel_qkv(read))
        else:
            assert self.pixel_kv is not None
            pixel_key, pixel_value = self._heads(self.pixel_kv(read))

        key, value = pixel_key, pixel_value
        if self.memory_to_memory:
            key = torch.cat([pixel_key, memory_key], dim=-1)
            value = torch.cat([pixel_value, memory_value], dim=-1)
        retrieved = self.memory_attention(memory_query, key, value)
        branch = self.memory_conv3(retrieved.unsqueeze(-1)).squeeze(-1)
        updated = F.relu(memory + self.memory_drop_path(branch))
        if self.feed_forward is not None:
            branch = self.feed_forward(updated)
            updated = F.relu(updated + self.feed_forward_drop_path(branch))

        if self.pixel_attention is not None and self.pixel_conv3 is not None:
            retrieved = self.pixel_attention(pixel_query, memory_key, memory_value)
            branch = self.pixel_conv3(retrieved.unflatten(-1, pixels.shape[-2:]))
            pixels = pixels + self.pixel_drop_path(branch)
        return pixels, updated

    def _heads(self, projected: Tensor) -> list[Tensor]:
        """Splits ``[B, C, ...]`` into queries, if C holds them, keys and values.

        Returns:
            Each ``[B, h, d, positions]``.
        """
        keys = (projected.shape[1] - self.value_channels) // self.key_channels
        sizes = [self.key_channels] * keys + [self.value_channels]
        parts = projected.flatten(2).split(sizes, dim=1)
        return [part.unflatten(1, (self.heads, -1)) for part in parts]


class FeedForward(nn.Module):
    """The residual branch of a feed-forward network on the memory.

    Args:
        memory_channels: of input and output.
        channels: in between.
        activation: in between.
    """

    def __init__(
        self, memory_channels: int, channels: int, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(memory_channels, channels, activation=activation)
        self.conv2 = ConvNorm(channels, memory_channels, initial_gamma=0.0)

    def forward(self, memory: Tensor) -> Tensor:
        """memory: ``[B, C, N]`` -> the same shape, no activation."""
        return self.conv2(self.conv1(memory.unsqueeze(-1))).squeeze(-1)


def attention_projection(in_channels: int, out_channels: int) -> ConvNorm:
    """A 1x1 convolution and batch norm for queries, keys or values."""
    projection = ConvNorm(in_channels, out_channels)
    truncated_normal_(projection.conv.weight, in_channels**-0.5)
    return projection
