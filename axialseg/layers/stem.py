"""Stems: from the image to features at stride 2.

Source: deeplab2 ``model/layers/stems.py`` and ``model/encoder/axial_resnet.py``. Each ends in a
batch norm without activation, because residual blocks activate their input themselves.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from axialseg.layers.convolution import ConvNorm, ConvNormReLU


class ConvStem(nn.Module):
    """One strided convolution: 7x7 for ResNet-50, 3x3 for the wide networks."""

    def __init__(self, channels: int = 64, kernel_size: int = 7) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv = ConvNorm(3, channels, kernel_size, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.conv(image)


class InceptionStem(nn.Module):
    """Three 3x3 convolutions, the first strided ("beta" networks, the paper's segmentation models).

    Args:
        channels: widths of the three convolutions.
    """

    def __init__(self, channels: Sequence[int] = (64, 64, 128)) -> None:
        super().__init__()
        first, second, third = channels
        self.out_channels = third
        self.conv1 = ConvNormReLU(3, first, 3, stride=2)
        self.conv2 = ConvNormReLU(first, second, 3)
        self.conv3 = ConvNorm(second, third, 3)

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.conv3(self.conv2(self.conv1(image)))
