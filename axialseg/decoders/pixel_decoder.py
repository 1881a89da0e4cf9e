"""The pixel decoder of kMaX-DeepLab: from the backbone's deepest stage up to the masks' stride.

Source: Yu et al. 2022, "k-means Mask Transformer" (arXiv 2207.04044), sec. 3.3 and 4.1; deeplab2
``model/pixel_decoder/kmax.py``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from axialseg.decoders.stacked import DecoderStage
from axialseg.layers.activation import Activation
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AttentionFactory, AxialAttention2d
from axialseg.layers.layer_norm import ChannelNorm
from axialseg.layers.residual_block import BottleneckBranch, ResidualBlock
from axialseg.layers.resized_fuse import ResizedFuse

DILATION = 2  # of the 3x3 convolutions: deeplab2 builds these stages as if behind stride 32


class PixelDecoder(nn.Module):
    """Stages at strides 32, 16, 8 ..., each fed by the backbone's stage at its stride.

    What comes from the backbone is taken before its activation, and normalised.

    Args:
        feature_channels: channels of the backbone's features by name, ``res5`` at stride 32,
            ``res4`` at 16, ...
        widths: of the bottleneck of each stage; its output has four times as many channels.
        blocks: residual blocks of each stage.
        kinds: of the blocks of each stage.
        attention: makes the attention layer of one axis; see `AttentionFactory`.
        activation: of all layers.

    Attributes:
        channels: of the output of each stage.

    Raises:
        ValueError: the lists differ in length, or the backbone lacks a feature.
    """

    def __init__(
        self,
        feature_channels: Mapping[str, int],
        widths: Sequence[int],
        blocks: Sequence[int],
        kinds: Sequence[Literal["axial", "bottleneck"]],
        attention: AttentionFactory,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        if not len(widths) == len(blocks) == len(kinds) <= 5:
            raise ValueError(
                "widths, blocks and kinds of a pixel decoder must have one entry per stage, at "
                f"most 5; got {len(widths)}, {len(blocks)} and {len(kinds)}"
            )
        read = [f"res{5 - index}" for index in range(len(widths))]
        if missing := [name for name in read if name not in feature_channels]:
            raise ValueError(
                f"a pixel decoder of {len(widths)} stages reads {missing[0]}, but the backbone has "
                f"{', '.join(feature_channels)} only"
            )
        self.channels = [4 * width for width in widths]
        self.norms = nn.ModuleList()
        self.stages = nn.ModuleList()
        current = feature_channels["res5"]
        for index, (width, count, kind) in enumerate(zip(widths, blocks, kinds, strict=True)):
            skipped = feature_channels[f"res{5 - index}"]
            self.norms.append(ChannelNorm(skipped))
            fuse = None
            if index > 0:
                stride = 2 ** (5 - index)
                fuse = ResizedFuse(
                    [current, skipped], [2 * stride, stride], width, stride, activation
                )
                current = width
            made = []
            for _ in range(count):
                made.append(_block(kind, current, width, attention, activation))
                current = 4 * width
            self.stages.append(DecoderStage(fuse, made))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Runs the stages.

        Args:
            features: ``res5``, ``res4``, ..., each ``[B, C, h, w]``, before their activation.

        Returns:
            The output of each stage, ``[B, channels[i], h, w]``, before activation.
        """
        skipped = [norm(features[f"res{5 - i}"]) for i, norm in enumerate(self.norms)]
        outputs = [self.stages[0](skipped[0], [])]
        for stage, feature in zip(self.stages[1:], skipped[1:], strict=True):
            outputs.append(stage(outputs[-1], [feature]))
        return outputs


def _block(
    kind: Literal["axial", "bottleneck"],
    in_channels: int,
    width: int,
    attention: AttentionFactory,
    activation: Activation,
) -> ResidualBlock:
    branch: nn.Module
    match kind:
        case "axial":
            branch = AttentionBranch(
                partial(AxialAttention2d, attention),
                in_channels,
                2 * width,
                width,
                2 * width,
                4 * width,
                activation=activation,
            )
        case "bottleneck":
            branch = BottleneckBranch(in_channels, width, width, 4 * width, 1, DILATION, activation)
        case _:
            raise ValueError(f"kinds knows axial and bottleneck, but not {kind!r}")
    return ResidualBlock(branch, in_channels, 4 * width, activation=activation)
