"""The one staged residual network behind every backbone.

ResNet-50(-beta), SWideRNet, Axial-SWideRNet, Axial-ResNet, ResNets with attention in a window and
the MaX-DeepLab backbones are arguments of `ResidualNetwork`; ``conf/model/backbone/`` holds them by
name.

Source: deeplab2 ``model/encoder/axial_resnet.py`` and ``axial_resnet_instances.py``; Wang et al.
2020, "Axial-DeepLab", sec. 3.2 and 4.1.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.backbones.backbone import records_by_stride
from axialseg.decoders.stacked import AfterBlock, StackedDecoder, StackedDecoderFactory
from axialseg.layers.activation import Activation, activation_function
from axialseg.layers.activation_checkpointing import CheckpointedBlock
from axialseg.layers.attention_block import Attention2dFactory, AttentionBranch
from axialseg.layers.axial_attention import AttentionFactory, AxialAttention2d, AxialStriding
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
        stem: module with `out_channels`; image ``[B, 3, H, W]`` to features at stride 2, or at
            another one that its attribute `stride` tells.
        stage_blocks: residual blocks of each stage; the last entry is stage 5, so four entries are
            stages 2..5 and five are stages 1..5.
        stage_channels: output channels of each stage, of which `width` makes more or fewer.
        conv_blocks: kind of the convolution blocks of each stage.
        attention: makes the attention layer of one axis; see `AttentionFactory`. None: no block has
            axial attention.
        attention_stages: stages all of whose blocks have attention, the strided first one included
            (the paper's networks).
        axial_from_stride: a block has it too if its nominal input stride is at least this
            (deeplab2's hybrids: 16 leaves the first block of stage 4 a convolution). None: none.
        axial_expansion: first 1x1 convolution of an axial block, in quarters of its channels.
        key_expansion: keys of an axial block, in quarters of the stage's channels.
        value_expansion: values of an axial block, in quarters of the stage's channels.
        attention_2d: makes the attention of a block over both axes, as `LocalAttention`; None:
            `attention` along the height and then along the width.
        output_stride: 8, 16 or 32.
        max_pool: activate and max-pool after the stem, instead of a strided first block in stage 2.
            The paper has it, deeplab2 does not.
        axial_striding: how an axial block strides, see `AxialAttention2d`: the paper and deeplab2
            subsample after each axis, the authors' PyTorch code averages after both.
        image_mean: is subtracted from an RGB image in 0..255.
        image_std: divides the result. The defaults give -1..1, as in the authors' TensorFlow code.
        activation: of the blocks; the stem has its own.
        activation_checkpointing: keep no activation inside the residual blocks; the backward pass
            computes them again.
        drop_path_keep: probability of keeping a residual branch in training; 1 keeps all.
        drop_path_schedule: "linear" falls to `drop_path_keep` at stride 32, "constant" has it
            everywhere.
        drop_path_from_stride: blocks with a smaller nominal input stride are never dropped.
        width: multiplies `stage_channels`; a stem has a `width` of its own.
        stacked_decoder: makes a decoder after the stages, part of the pre-trained network of
            MaX-DeepLab-L. `forward` does not need it, so its parameters are frozen. A model that
            runs it calls `requires_grad_`.

    Attributes:
        channels: channels of each feature that `forward` returns, by its name.
        strides: strides of these features.

    Raises:
        ValueError: if the stage lists differ in length or name no stage or block kind, a block has
            attention that nothing makes, or a stem of stride 4 has a max-pool behind it.
    """

    def __init__(
        self,
        stem: nn.Module,
        stage_blocks: Sequence[int],
        stage_channels: Sequence[int],
        conv_blocks: Sequence[ConvBlock],
        attention: AttentionFactory | None = None,
        attention_stages: Sequence[int] = (),
        axial_from_stride: int | None = None,
        axial_expansion: int = 2,
        key_expansion: int = 1,
        value_expansion: int = 2,
        attention_2d: Attention2dFactory | None = None,
        output_stride: int = 16,
        max_pool: bool = False,
        axial_striding: AxialStriding = "subsample",
        image_mean: Sequence[float] = (127.5, 127.5, 127.5),
        image_std: Sequence[float] = (127.5, 127.5, 127.5),
        activation: Activation = "relu",
        activation_checkpointing: bool = False,
        drop_path_keep: float = 1.0,
        drop_path_schedule: DropPathSchedule = "linear",
        drop_path_from_stride: int = 4,
        width: float = 1.0,
        stacked_decoder: StackedDecoderFactory | None = None,
    ) -> None:
        super().__init__()
        if not len(stage_blocks) == len(stage_channels) == len(conv_blocks) <= 5:
            raise ValueError(
                "stage_blocks, stage_channels and conv_blocks must have one entry per stage, at "
                f"most 5; got {len(stage_blocks)}, {len(stage_channels)} and {len(conv_blocks)}"
            )
        first_stage = 6 - len(stage_blocks)
        self.attention_2d = attention_2d
        if attention_2d is None and attention is not None:
            self.attention_2d = partial(AxialAttention2d, attention)
        self.attention_stages = tuple(attention_stages)
        self.axial_from_stride = axial_from_stride
        self.expansions = (axial_expansion, key_expansion, value_expansion)
        self.output_stride = output_stride
        self.max_pool = max_pool
        self.axial_striding: AxialStriding = axial_striding
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.activation = activation
        self.block_class = CheckpointedBlock if activation_checkpointing else ResidualBlock
        self.conv_blocks = dict(enumerate(conv_blocks, start=first_stage))
        self.drop_path_keep = drop_path_keep
        self.drop_path_schedule = drop_path_schedule
        self.drop_path_from_stride = drop_path_from_stride

        self.stem = stem
        assert isinstance(stem.out_channels, int)
        channels: int = stem.out_channels
        self.channels = {"res1": channels}
        stem_stride = getattr(stem, "stride", 2) * (2 if max_pool else 1)
        if stem_stride > 4:
            raise ValueError(f"a stem of stride {stem_stride // 2} needs max_pool=false")
        self.strides = {"res1": stem_stride}
        self.stages = nn.ModuleDict()
        for stage, blocks in enumerate(stage_blocks, start=first_stage):
            out_channels = round(width * stage_channels[stage - first_stage])
            layers = []
            for index in range(blocks):
                strides = index == 0 and 2**stage > stem_stride
                nominal_stride = 2 ** (stage - 1) if strides else 2**stage  # before the block
                layers.append(self._block(stage, channels, out_channels, nominal_stride, strides))
                channels = out_channels
            self.stages[f"stage{stage}"] = nn.Sequential(*layers)
            self.channels[f"res{stage}"] = out_channels
            self.strides[f"res{stage}"] = self._stride(stage)

        self.stacked_decoder: StackedDecoder | None = None
        if stacked_decoder is not None:
            self.stacked_decoder = stacked_decoder(
                recorded=records_by_stride(self.channels, self.strides),
                stride=self.strides["res5"],
                make_block=self.decoder_block,
            ).requires_grad_(False)

    def _stride(self, stage: int) -> int:
        """Stride of a stage's output."""
        return int(min(2**stage, self.output_stride))

    def decoder_block(self, in_channels: int, channels: int, stride: int) -> ResidualBlock:
        """A block for a stacked decoder at a stride, of the kind that the stage there has.

        At the stride of the deepest stage it is one of that stage.
        """
        stage = 5 if stride == self._stride(5) else stride.bit_length() - 1
        return self._block(stage, in_channels, channels, 2**stage, strides=False)

    def _block(
        self, stage: int, in_channels: int, width: int, nominal_stride: int, strides: bool
    ) -> ResidualBlock:
        """A residual block.

        Args:
            stage: whose kind it has.
            in_channels: channels of its input.
            width: channels of its output.
            nominal_stride: of its input, as if `output_stride` were not limited.
            strides: it doubles the nominal stride.
        """
        stride = 2 if strides and nominal_stride < self.output_stride else 1
        dilation = max(nominal_stride // self.output_stride, 1)
        next_dilation = max(nominal_stride * (2 if strides else 1) // self.output_stride, 1)
        has_attention = stage in self.attention_stages or (
            self.axial_from_stride is not None and nominal_stride >= self.axial_from_stride
        )
        branch = (
            self._attention_branch(in_channels, width, stride)
            if has_attention
            else _conv_branch(
                self.conv_blocks[stage],
                in_channels,
                width,
                stride,
                dilation,
                next_dilation,
                self.activation,
            )
        )
        keep = self.drop_path_keep if nominal_stride >= self.drop_path_from_stride else 1.0
        if keep < 1.0 and self.drop_path_schedule == "linear":
            keep = linear_keep_probability(keep, nominal_stride)
        return self.block_class(branch, in_channels, width, stride, keep, self.activation)

    def _attention_branch(self, in_channels: int, width: int, stride: int) -> AttentionBranch:
        if self.attention_2d is None:
            raise ValueError("a block has attention, but neither attention nor attention_2d is set")
        inner, key, value = (width // 4 * expansion for expansion in self.expansions)
        return AttentionBranch(
            self.attention_2d,
            in_channels,
            inner,
            key,
            value,
            width,
            stride,
            self.axial_striding,
            self.activation,
        )

    def raw_stages(
        self,
        image: Tensor,
        valid: Tensor | None = None,
        after_block: AfterBlock | None = None,
    ) -> dict[str, Tensor]:
        """Stage outputs before activation, ``stage1`` .. ``stage5``.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.
            after_block: called between the blocks of the stages.
        """
        dtype = next(self.stem.parameters()).dtype
        x = self.stem(normalize_image(image, valid, self.image_mean, self.image_std, dtype))
        if self.max_pool:
            x = F.max_pool2d(activation_function(self.activation)(x), 3, stride=2, padding=1)
        outputs = {"stage1": x}
        for name, blocks in self.stages.items():
            if after_block is None:
                x = blocks(x)
            else:
                for index, block in enumerate(cast(Iterable[nn.Module], blocks)):
                    x = after_block(name, index, block(x))
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
        return self.activated(self.raw_stages(image, valid))

    def activated(self, raw_stages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res1`` .. ``res5`` of what `raw_stages` returns."""
        activation = activation_function(self.activation)
        return {name.replace("stage", "res"): activation(x) for name, x in raw_stages.items()}


def _conv_branch(
    kind: ConvBlock,
    in_channels: int,
    width: int,
    stride: int,
    dilation: int,
    next_dilation: int,
    activation: Activation,
) -> nn.Module:
    quarter = width // 4
    match kind:
        case "bottleneck":
            return BottleneckBranch(
                in_channels, quarter, quarter, width, stride, dilation, activation
            )
        case "wide_bottleneck":
            return BottleneckBranch(
                in_channels, quarter, 2 * quarter, width, stride, dilation, activation
            )
        case "basic":
            # Only one 3x3 convolution sees the stride that the block replaces by dilation.
            return BasicBranch(in_channels, width, stride, dilation, next_dilation, activation)
        case _:
            raise ValueError(
                f"conv_blocks knows bottleneck, basic and wide_bottleneck, but not {kind!r}"
            )
