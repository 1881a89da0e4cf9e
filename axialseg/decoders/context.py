"""What a decoder does to the deepest feature before it is upsampled.

Source: deeplab2 ``model/decoder/aspp.py``; Chen et al. 2017, "Rethinking Atrous Convolution"
(ASPP). The axial configurations of deeplab2 use the 1x1 projection alone; the paper uses nothing.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.activation import Activation
from axialseg.layers.convolution import ConvNormAct
from axialseg.layers.resize import resize_bilinear


class AtrousFactory(Protocol):
    """Makes a convolution with norm and activation."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        /,
        *,
        dilation: int,
        activation: Activation,
    ) -> nn.Module:
        """The layer maps ``[B, in_channels, h, w]`` to ``[B, out_channels, h, w]``."""
        ...


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    Args:
        in_channels: channels of the input.
        channels: width of each branch and of the output.
        rates: dilation of the three 3x3 convolutions where the input has stride 16; at another
            stride they are scaled to cover the same part of the image.
        output_stride: stride of the input.
        pool_size: window (height, width) of the average pool in feature pixels; None pools the
            whole feature. deeplab2 uses the training crop's size at the output stride.
        dropout: rate of the dropout on the output in training.
        activation: of each convolution.
        atrous: makes a 3x3 convolution; `SeparableConvNormAct` makes a depth-wise separable one.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        output_stride: int = 16,
        pool_size: tuple[int, int] | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        atrous: AtrousFactory = ConvNormAct,
    ) -> None:
        super().__init__()
        conv = partial(ConvNormAct, activation=activation)
        self.out_channels = channels
        self.pool_size = None if pool_size is None else (int(pool_size[0]), int(pool_size[1]))
        self.point = conv(in_channels, channels)
        self.atrous = nn.ModuleList(
            atrous(in_channels, channels, 3, dilation=rate, activation=activation)
            for rate in (rate * 16 // output_stride for rate in rates)
        )
        self.pooled = conv(in_channels, channels)
        self.project = conv((2 + len(rates)) * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, h, w]`` -> ``[B, channels, h, w]``."""
        size = (x.shape[-2], x.shape[-1])
        if self.pool_size is None:
            average = x.mean((2, 3), keepdim=True)
        else:
            window = (min(self.pool_size[0], size[0]), min(self.pool_size[1], size[1]))
            average = F.avg_pool2d(x, window, stride=1)
        branches = [self.point(x), *(conv(x) for conv in self.atrous)]
        branches.append(resize_bilinear(self.pooled(average), size))
        return self.dropout(self.project(torch.cat(branches, dim=1)))


class PointwiseContext(ConvNormAct):
    """A 1x1 convolution to `channels`: ASPP reduced to its first branch."""

    def __init__(
        self, in_channels: int, channels: int = 256, activation: Activation = "relu"
    ) -> None:
        super().__init__(in_channels, channels, activation=activation)
        self.out_channels = channels


class NoContext(nn.Identity):
    """The deepest feature as it is, as in the Axial-DeepLab paper."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels
