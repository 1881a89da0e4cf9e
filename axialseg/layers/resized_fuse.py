"""Sum of features of different strides and widths.

Source: deeplab2 ``model/layers/resized_fuse.py``. Difference: whether an input is subsampled or
resized follows from the strides, not from the sizes at hand, so that any image size runs.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.convolution import ConvNorm
from axialseg.layers.resize import resize_bilinear


class ResizedFuse(nn.Module):
    """Brings its inputs to one stride and width and adds them.

    An input of the right width is resized alone. Any other is activated and projected by a 1x1
    convolution and batch norm: strided if the input has half the target's stride, else followed by
    the resizing.

    Args:
        in_channels: channels of each input.
        in_strides: stride of each input.
        channels: of the output.
        stride: of the output.
        activation: of the inputs that are projected.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: int,
        stride: int,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        # By the position of the input; an input that fits has no projection.
        self.strided = nn.ModuleDict()
        self.resized = nn.ModuleDict()
        for position, (width, at) in enumerate(zip(in_channels, in_strides, strict=True)):
            if width != channels and 2 * at == stride:
                self.strided[str(position)] = ConvNorm(width, channels, stride=2)
            elif width != channels:
                self.resized[str(position)] = ConvNorm(width, channels)

    def forward(self, inputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Adds the inputs.

        Args:
            inputs: each ``[B, C_i, h_i, w_i]`` before activation, in the order of the constructor's
                lists.
            size: (height, width) of the output.

        Returns:
            ``[B, channels, height, width]``, no activation.
        """
        fused = resize_bilinear(self._projected(inputs[0], "0"), size)
        for position, x in enumerate(inputs[1:], start=1):
            fused = fused + resize_bilinear(self._projected(x, str(position)), size)
        return fused

    def _projected(self, x: Tensor, position: str) -> Tensor:
        if position in self.strided:
            return self.strided[position](self.activation(x))
        if position in self.resized:
            return self.resized[position](self.activation(x))
        return x
