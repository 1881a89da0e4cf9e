"""The one staged residual network behind every backbone.

ResNet-50(-beta), SWideRNet, Axial-SWideRNet, Axial-ResNet and the MaX-DeepLab backbones are arguments
of `ResidualNetwork`; ``conf/model/backbone/`` holds them by name.

Source: deeplab2 ``model/encoder/axial_resnet.py`` and ``axial_resnet_instances.py``; Wang et al. 2020,
"Axial-DeepLab", sec. 3.2 and 4.1.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.axial_attention import AttentionFactory
from axialseg.layers.axial_block import AxialBranch
from axialseg.layers.drop_path import linear_keep_probability
from axialseg.layers.normalize import normalize_image
from axialseg.layers.residual_block import BasicBranch, BottleneckBranch, ResidualBlock

ConvBlock = Literal["bottleneck", "basic", "wide_bottleneck"]
DropPathSchedule = Literal["constant", "linear"]


class ResidualNetwork(nn.Module):
    """Image -> features at strides 2, 4, ... `output_stride`.

    The stem has stride 2 and stage k nominal stride 2^k, reached in its first block. Stages beyond
    `output_stride` are not strided; their convolutions are dilated instead (attention is not).

    Args:
        stem: module with `out_channels`; image ``[B, 3, H, W]`` to features at stride 2.
        stage_blocks: residual blocks of each stage; the last entry is stage 5, so four entries are
            stages 2..5 and five are stages 1..5.
        stage_channels: output channels of each stage.
        conv_blocks: kind of the convolution blocks of each stage.
        attention: makes the attention layer of one axis; see `AttentionFactory`.
        attention_stages: stages all of whose blocks are axial, the strided first one included (the
            paper's networks).
        axial_from_stride: a block is axial too if its nominal input stride is at least this
            (deeplab2's hybrids: 16 leaves the first block of stage 4 a convolution). None for none.
        axial_expansion: first 1x1 convolution of an axial block, in quarters of the stage's channels.
        key_expansion: keys of an axial block, in quarters of the stage's channels.
        value_expansion: values of an axial block, in quarters of the stage's channels.
        output_stride: 8, 16 or 32.
        max_pool: activate and max-pool after the stem, instead of a strided first block in stage 2
            (the paper has it, deeplab2 has not).
        drop_path_keep: probability of keeping a residual branch in training; 1 switches drop path off.
        drop_path_schedule: "linear" falls to `drop_path_keep` at stride 32, "constant" has it everywhere.
        drop_path_from_stride: blocks with a smaller nominal input stride are never dropped.

    Attributes:
        channels: channels of each feature that `forward` returns, by its name.

    Raises:
        ValueError: if the stage lists differ in length or name no stage or block kind.
    """

    def __init__(
        self,
        stem: nn.Module,
        stage_blocks: Sequence[int],
        stage_channels: Sequence[int],
        conv_blocks: Sequence[ConvBlock],
        attention: AttentionFactory,
        attention_stages: Sequence[int] = (),
        axial_from_stride: int | None = None,
        axial_expansion: int = 2,
        key_expansion: int = 1,
        value_expansion: int = 2,
        output_stride: int = 16,
        max_pool: bool = False,
        drop_path_keep: float = 1.0,
        drop_path_schedule: DropPathSchedule = "linear",
        drop_path_from_stride: int = 4,
    ) -> None:
        super().__init__()
        if not len(stage_blocks) == len(stage_channels) == len(conv_blocks) <= 5:
            raise ValueError(
                "stage_blocks, stage_channels and conv_blocks must have one entry per stage, at most "
                f"5; got {len(stage_blocks)}, {len(stage_channels)} and {len(conv_blocks)}"
            )
        self.attention = attention
        self.expansions = (axial_expansion, key_expansion, value_expansion)
        self.output_stride = output_stride
        self.max_pool = max_pool
        self.stem = stem
        self.first_stage = 6 - len(stage_blocks)
        self.channels = {"res1": int(stem.out_channels)}
        channels = int(stem.out_channels)
        self.stages = nn.ModuleDict()
        plan = zip(stage_blocks, stage_channels, conv_blocks, strict=True)
        for stage, (blocks, width, conv_block) in enumerate(plan, start=self.first_stage):
            layers = []
            for index in range(blocks):
                strides_here = index == 0 and stage > 1 and not (max_pool and stage == 2)
                nominal = 2 ** (stage - 1) if strides_here else 2**stage  # before the block
                is_axial = stage in attention_stages or (
                    axial_from_stride is not None and nominal >= axial_from_stride
                )
                keep = drop_path_keep if nominal >= drop_path_from_stride else 1.0
                if keep < 1.0 and drop_path_schedule == "linear":
                    keep = linear_keep_probability(keep, nominal)
                stride = 2 if strides_here and nominal < output_stride else 1
                dilation = max(nominal // output_stride, 1)
                next_dilation = max((2 * nominal if strides_here else nominal) // output_stride, 1)
                branch = (
                    self._axial_branch(channels, width, stride)
                    if is_axial
                    else _conv_branch(conv_block, channels, width, stride, dilation, next_dilation)
                )
                layers.append(ResidualBlock(branch, channels, width, stride, keep))
                channels = width
            self.stages[f"stage{stage}"] = nn.Sequential(*layers)
            self.channels[f"res{stage}"] = width

    def _axial_branch(self, in_channels: int, width: int, stride: int) -> AxialBranch:
        inner, key, value = (width // 4 * expansion for expansion in self.expansions)
        return AxialBranch(self.attention, in_channels, inner, key, value, width, stride)

    def raw_stages(self, image: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Stage outputs before activation, ``stage1`` .. ``stage5``; arguments as of `forward`."""
        x = self.stem(normalize_image(image, valid))
        if self.max_pool:
            x = F.max_pool2d(F.relu(x), 3, stride=2, padding=1)
        outputs = {"stage1": x}
        for name, blocks in self.stages.items():
            x = blocks(x)
            outputs[name] = x
        return outputs

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Mapping[str, Tensor]:
        """Computes the features that decoders read.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.

        Returns:
            ``res1`` .. ``res5``, activated; resK is ``[B, channels["resK"], h, w]`` at stride
            min(2^K, output_stride) with h = (H - 1) // stride + 1.
        """
        stages = self.raw_stages(image, valid)
        return {name.replace("stage", "res"): F.relu(x) for name, x in stages.items()}


def _conv_branch(
    kind: ConvBlock,
    in_channels: int,
    width: int,
    stride: int,
    dilation: int,
    next_dilation: int,
) -> nn.Module:
    quarter = width // 4
    match kind:
        case "bottleneck":
            return BottleneckBranch(in_channels, quarter, quarter, width, stride, dilation)
        case "wide_bottleneck":
            return BottleneckBranch(in_channels, quarter, 2 * quarter, width, stride, dilation)
        case "basic":
            # Only one 3x3 convolution sees the stride that the block replaces by dilation.
            return BasicBranch(in_channels, width, stride, dilation, next_dilation)
        case _:
            raise ValueError(
                f"conv_blocks knows bottleneck, basic and wide_bottleneck, but not {kind!r}"
            )
