"""Pre-activation residual blocks: bottleneck, basic and wide bottleneck.

Source: deeplab2 ``model/layers/axial_blocks.py``. The residual stream is kept before activation. A
block activates its input first, and the shortcut starts from the activated input too.
"""

from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.convolution import ConvNorm, ConvNormAct
from axialseg.layers.drop_path import DropPath


class ResidualBlock(nn.Module):
    """x -> shortcut(act(x)) + drop_path(branch(act(x))).

    Args:
        branch: maps ``[B, C_in, H, W]`` (activated) to ``[B, C_out, H/stride, W/stride]``.
        in_channels: channels of the input.
        out_channels: channels of the output; if they differ, a 1x1 projection fits the shortcut.
        stride: stride of the branch.
        keep_probability: of the branch in training, see `DropPath`.
        activation: of the input.
    """

    def __init__(
        self,
        branch: nn.Module,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        keep_probability: float = 1.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.stride = stride
        self.branch = branch
        self.shortcut = (
            ConvNorm(in_channels, out_channels, stride=stride)
            if in_channels != out_channels
            else None
        )
        self.drop_path = DropPath(keep_probability)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` before activation -> ``[B, C_out, H', W']`` before activation."""
        x = self.activation(x)
        return self.shortcut_of(x) + self.drop_path(self.branch(x))

    def shortcut_of(self, x: Tensor) -> Tensor:
        """x: activated -> the shortcut, ``[B, C_out, H', W']``."""
        if self.shortcut is not None:
            return self.shortcut(x)
        return x[:, :, :: self.stride, :: self.stride]


class BottleneckBranch(nn.Module):
    """1x1, 3x3, 1x1 convolutions; the first two are activated.

    Args:
        in_channels: channels of the input.
        bottleneck_channels: width of the first convolution.
        spatial_channels: width of the 3x3 convolution (twice the first in a wide bottleneck).
        out_channels: width of the last convolution.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        activation: after the first two.
    """

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        spatial_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, bottleneck_channels, activation=activation)
        self.conv2 = ConvNormAct(
            bottleneck_channels, spatial_channels, 3, stride, dilation, activation
        )
        self.conv3 = ConvNorm(spatial_channels, out_channels, initial_gamma=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, H/stride, W/stride]``."""
        return self.conv3(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """The input of the last convolution."""
        return self.conv2(self.conv1(x))

    @property
    def last(self) -> ConvNorm:
        """The last convolution."""
        return self.conv3


class BasicBranch(nn.Module):
    """Two 3x3 convolutions with an activation between them.

    Args:
        in_channels: channels of the input.
        out_channels: width of both convolutions.
        stride: of the first convolution.
        dilation: of the first convolution.
        second_dilation: of the second convolution.
        activation: between them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        second_dilation: int = 1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, 3, stride, dilation, activation)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, 1, second_dilation, initial_gamma=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, H/stride, W/stride]``."""
        return self.conv2(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """The input of the last convolution."""
        return self.conv1(x)

    @property
    def last(self) -> ConvNorm:
        """The last convolution."""
        return self.conv2
