"""The residual branch with axial attention in place of the 3x3 convolution.

Source: Wang et al. 2020, "Axial-DeepLab", sec. 3.2 and fig. 2; deeplab2
``model/layers/axial_blocks.py``.
"""

from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.axial_attention import AttentionFactory, AxialAttention2d, AxialStriding
from axialseg.layers.convolution import ConvNorm, ConvNormAct


class AxialBranch(nn.Module):
    """1x1 convolution, height-axis and width-axis attention, 1x1 convolution.

    There is no activation and no convolution between the axes; the activation comes after both.

    Args:
        attention: makes one attention layer, see `AxialAttention2d`.
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
        attention: AttentionFactory,
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
        self.attention = AxialAttention2d(
            attention, bottleneck_channels, key_channels, value_channels, stride, striding
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
