"""The residual branch with attention in place of the 3x3 convolution.

Source: Wang et al. 2020, "Axial-DeepLab", sec. 3.2 and fig. 2; deeplab2
``model/layers/axial_blocks.py``; Ramachandran et al. 2019, "Stand-Alone Self-Attention", sec. 3.2.
"""

from typing import Protocol

from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.axial_attention import AxialStriding
from axialseg.layers.convolution import ConvNorm, ConvNormAct


class Attention2dFactory(Protocol):
    """Makes the attention of a block: `AxialAttention2d` or `LocalAttention`, its options set."""

    def __call__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        *,
        stride: int,
        striding: AxialStriding,
    ) -> nn.Module:
        """The layer maps ``[B, in_channels, H, W]`` to ``[B, value_channels, H', W']``."""
        ...


class AttentionBranch(nn.Module):
    """1x1 convolution, attention over both axes, 1x1 convolution.

    There is no activation and no convolution between two axes; the activation comes after both.

    Args:
        attention: makes the attention over both axes.
        in_channels: channels of the input.
        bottleneck_channels: width of the first convolution.
        key_channels: channels of queries and keys over all heads.
        value_channels: channels of values over all heads.
        out_channels: width of the last convolution.
        stride: of the attention.
        striding: how it strides, see `AxialAttention2d`.
        activation: of the first convolution and of the attention.
    """

    def __init__(
        self,
        attention: Attention2dFactory,
        in_channels: int,
        bottleneck_channels: int,
        key_channels: int,
        value_channels: int,
        out_channels: int,
        stride: int = 1,
        striding: AxialStriding = "subsample",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.conv1 = ConvNormAct(in_channels, bottleneck_channels, activation=activation)
        self.attention = attention(
            bottleneck_channels, key_channels, value_channels, stride=stride, striding=striding
        )
        self.conv2 = ConvNorm(value_channels, out_channels, initial_gamma=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, (H-1)//stride+1, (W-1)//stride+1]``."""
        return self.conv2(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """The input of the last convolution."""
        return self.activation(self.attention(self.conv1(x)))

    @property
    def last(self) -> ConvNorm:
        """The last convolution."""
        return self.conv2
