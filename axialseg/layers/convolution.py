"""Convolution followed by batch norm.

Source: deeplab2 ``model/layers/convolutions.py``. ``Conv2DSame`` pads by (k - 1) / 2 on each side
for any stride, as symmetric padding here does (TensorFlow's own SAME would not at even sizes).
"""

from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.initialization import he_normal_


class ConvNorm(nn.Module):
    """Bias-free convolution and batch norm; no activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd side of the kernel.
        stride: step of the convolution.
        dilation: distance of the kernel's taps.
        initial_gamma: initial scale of the batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        initial_gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=(kernel_size - 1) // 2 * dilation,
            dilation=dilation,
            bias=False,
        )
        he_normal_(self.conv.weight)
        self.norm = BatchNorm(out_channels, initial_gamma=initial_gamma)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, (H-1)//stride+1, (W-1)//stride+1]``."""
        return self.norm(self.conv(x))


class ConvNormAct(ConvNorm):
    """`ConvNorm` followed by an activation; the other arguments are `ConvNorm`'s."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, (H-1)//stride+1, (W-1)//stride+1]``, activated."""
        return self.activation(super().forward(x))


class SeparableConvNormAct(nn.Module):
    """Depth-wise convolution, batch norm, activation, then the same with a 1x1 convolution.

    Source: deeplab2 ``StackedConv2DSame`` of type ``depthwise_separable_conv``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        activation: Activation = "relu",
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2 * dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        # Keras' default for depth-wise kernels [k, k, C, 1]: Glorot uniform, fans k*k*C and k*k.
        area = kernel_size * kernel_size
        limit = (6.0 / (area * in_channels + area)) ** 0.5
        nn.init.uniform_(self.depthwise.weight, -limit, limit)
        self.depthwise_norm = BatchNorm(in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, H, W]``, activated."""
        return self.pointwise(self.activation(self.depthwise_norm(self.depthwise(x))))
