"""Stems: from the image to features at stride 2.

Source: deeplab2 ``model/layers/stems.py`` and ``model/encoder/axial_resnet.py``; Wang et al. 2020,
"Axial-DeepLab", sec. 3.2 for `AxialStem`. Each ends without activation, because residual blocks
activate their input themselves. `width` scales the stem. In the paper it is the width of the whole
network, in deeplab2 it is 1.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from axialseg.layers.activation import Activation
from axialseg.layers.axial_attention import AttentionFactory
from axialseg.layers.axial_block import AxialBranch
from axialseg.layers.convolution import ConvNorm, ConvNormAct
from axialseg.layers.residual_block import ResidualBlock


class ConvStem(nn.Module):
    """One strided convolution: 7x7 for ResNet-50, 3x3 for the wide networks.

    Args:
        channels: of the output at width 1.
        kernel_size: height and width of the kernel.
        width: multiplies the channels.
    """

    def __init__(self, channels: int = 64, kernel_size: int = 7, width: float = 1.0) -> None:
        super().__init__()
        channels = round(width * channels)
        self.out_channels = channels
        self.conv = ConvNorm(3, channels, kernel_size, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.conv(image)


class InceptionStem(nn.Module):
    """Three 3x3 convolutions, the first strided ("beta" networks, the paper's segmentation models).

    Args:
        channels: of the three convolutions at width 1.
        width: multiplies the channels.
        activation: of the first two.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 64, 128),
        width: float = 1.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        first, second, third = (round(width * number) for number in channels)
        self.out_channels = third
        self.conv1 = ConvNormAct(3, first, 3, stride=2, activation=activation)
        self.conv2 = ConvNormAct(first, second, 3, activation=activation)
        self.conv3 = ConvNorm(second, third, 3)

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.conv3(self.conv2(self.conv1(image)))


class AxialStem(nn.Module):
    """Three axial blocks, the first strided: the stem of the stand-alone (full axial) networks.

    The paper gives neither the widths nor how three colours enter a residual block. Here the blocks
    have the proportions of the stages', and the image enters the first one as it is, not activated.

    Args:
        channels: of the output at width 1.
        attention: makes one attention layer, see `AxialAttention2d`.
        width: multiplies the channels.
    """

    def __init__(self, channels: int, attention: AttentionFactory, width: float = 1.0) -> None:
        super().__init__()
        channels = round(width * channels)
        self.out_channels = channels
        inner, key, value = channels // 2, channels // 4, channels // 2
        self.branch = AxialBranch(attention, 3, inner, key, value, channels, stride=2)
        self.shortcut = ConvNorm(3, channels, stride=2)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    AxialBranch(attention, channels, inner, key, value, channels),
                    channels,
                    channels,
                )
                for _ in range(2)
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.blocks(self.shortcut(image) + self.branch(image))
