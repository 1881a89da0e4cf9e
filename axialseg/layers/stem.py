"""Stems: from the image to features at stride 2 or 4.

Source: deeplab2 ``model/layers/stems.py`` and ``model/encoder/axial_resnet.py``; Wang et al. 2020,
"Axial-DeepLab", sec. 3.2 for `AxialStem`; Ramachandran et al. 2019, "Stand-Alone Self-Attention",
appendix A for `AttentionStem`, which alone has stride 4. Each ends without activation, because
residual blocks activate their input themselves. `width` scales the stem. In the Axial-DeepLab paper
it is the width of the whole network, in deeplab2 it is 1.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.activation import Activation
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AttentionFactory, AxialAttention2d
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, ConvNormAct
from axialseg.layers.initialization import truncated_normal_
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
        both_axes = partial(AxialAttention2d, attention)
        self.branch = AttentionBranch(both_axes, 3, inner, key, value, channels, stride=2)
        self.shortcut = ConvNorm(3, channels, stride=2)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    AttentionBranch(both_axes, channels, inner, key, value, channels),
                    channels,
                    channels,
                )
                for _ in range(2)
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//2+1, (W-1)//2+1]``."""
        return self.blocks(self.shortcut(image) + self.branch(image))


class AttentionStem(nn.Module):
    """Attention among the pixels of each 4 x 4 block, batch norm, and the maximum of the block.

    Queries and keys are linear in the colours. So are the values, by a matrix that is a mixture of
    a few, with weights that depend on the place in the block and are shared by the heads. Pixels
    beyond the image do not exist. The paper gives neither the channels (here those of the 7x7
    convolution in whose place the stem stands) nor the number of matrices (here that of unofficial
    code).

    Args:
        channels: of the output at width 1.
        heads: divide the channels.
        matrices: that the values mix.
        width: multiplies the channels.
    """

    stride = 4

    def __init__(
        self, channels: int = 64, heads: int = 4, matrices: int = 4, width: float = 1.0
    ) -> None:
        super().__init__()
        channels = round(width * channels)
        depth = channels // heads
        self.out_channels = channels
        self.heads = heads
        self.query_key = nn.Linear(3, 2 * channels, bias=False)
        self.values = nn.Parameter(torch.empty(matrices, channels, 3))
        self.row_table = nn.Parameter(torch.empty(self.stride, depth))
        self.column_table = nn.Parameter(torch.empty(self.stride, depth))
        self.matrix_table = nn.Parameter(torch.empty(matrices, depth))
        for weight in (self.query_key.weight, self.values):
            truncated_normal_(weight, 3**-0.5)
        for table in (self.row_table, self.column_table, self.matrix_table):
            truncated_normal_(table, depth**-0.5)
        self.norm = BatchNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, 3, H, W]`` -> ``[B, C, (H-1)//4+1, (W-1)//4+1]``."""
        surplus = [-n % self.stride for n in image.shape[-2:]]
        exists: Tensor | None = None
        if any(surplus):
            exists = self._blocks(torch.ones_like(image[:1, :1], dtype=torch.bool), surplus)[..., 0]
        pixels = self._blocks(image, surplus)  # [B, Y, X, 16, 3]
        query, key = self.query_key(pixels).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        logits = torch.einsum("byxihd,byxjhd->byxhij", query, key)
        if exists is not None:
            logits = logits.masked_fill(~exists[:, :, :, None, None], -torch.inf)
        places = self.row_table[:, None] + self.column_table
        shares = (places.flatten(0, 1) @ self.matrix_table.t()).softmax(1)
        matrices = torch.einsum("jm,mcn->jcn", shares, self.values)
        value = torch.einsum("byxjn,jcn->byxjc", pixels, matrices).unflatten(-1, (self.heads, -1))
        y = torch.einsum("byxhij,byxjhd->byxihd", logits.softmax(-1), value).flatten(-2)
        if exists is None:
            return self.norm(y.movedim(-1, 1)).amax(-1)
        y = self.norm(y.movedim(-1, 1), exists[:, None])
        return y.masked_fill(~exists[:, None], -torch.inf).amax(-1)

    def _blocks(self, x: Tensor, surplus: Sequence[int]) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, Y, X, 16, C]``, the pixels of each block, row by row."""
        down, right = surplus
        x = F.pad(x, (0, right, 0, down))
        x = x.unflatten(3, (-1, self.stride)).unflatten(2, (-1, self.stride))
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
