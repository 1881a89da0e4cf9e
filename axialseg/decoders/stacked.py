"""The stacked decoder of MaX-DeepLab: it goes up and down the strides and fuses earlier features.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.2 (an hourglass of L decoders);
deeplab2 ``model/encoder/axial_resnet.py``.

The decoder works on records. For each stride these are the tensors that were computed there, before
activation, oldest first. A backbone gives one for each stride, and every stage adds its own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from axialseg.layers.resized_fuse import ResizedFuse

FUSED_RECORDS = 2  # newest records of its stride that a stage fuses with the current tensor


class BlockFactory(Protocol):
    """Makes a residual block that keeps the resolution."""

    def __call__(self, in_channels: int, channels: int, stride: int) -> nn.Module:
        """The block maps ``[B, in_channels, h, w]`` at this stride to ``[B, channels, h, w]``."""
        ...


class AfterBlock(Protocol):
    """Is called between residual blocks; MaX-DeepLab's memory path is one."""

    def __call__(self, stage: str, block: int, x: Tensor) -> Tensor:
        """Called with the output ``[B, C, h, w]`` of a block; what it returns goes on.

        Args:
            stage: name of the stage, ``stage1`` .. ; those of a stacked decoder count on their own.
            block: its number in the stage, from 0.
            x: before activation.
        """
        ...


class StackedDecoderFactory(Protocol):
    """Makes a stacked decoder that goes on where a backbone, or another such decoder, ends."""

    def __call__(
        self,
        *,
        recorded: Mapping[int, Sequence[int]],
        stride: int,
        make_block: BlockFactory,
    ) -> "StackedDecoder":
        """See `StackedDecoder`."""
        ...


class DecoderStage(nn.Module):
    """A fuse, if the stride changes, and residual blocks.

    Args:
        fuse: brings the current tensor and the newest records to one sum; None goes on with the
            current tensor alone.
        blocks: residual blocks.
    """

    def __init__(self, fuse: ResizedFuse | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.fuse = fuse
        self.blocks = nn.Sequential(*blocks)

    def forward(
        self,
        x: Tensor,
        records: Sequence[Tensor],
        after_block: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Computes the stage.

        Args:
            x: the current tensor ``[B, C_in, h_in, w_in]``, before activation.
            records: of the stage's stride, each ``[B, C, h, w]``, before activation.
            after_block: called with the number and the output of each block.

        Returns:
            ``[B, C, h, w]``, before activation.
        """
        if self.fuse is not None:
            height, width = records[-1].shape[-2:]
            x = self.fuse([x, *records[-FUSED_RECORDS:]], (height, width))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if after_block is not None:
                x = after_block(index, x)
        return x


class StackedDecoder(nn.Module):
    """Stages at given strides, each of as many channels as the records of its stride have.

    A stage at the stride of the one before it goes on with its tensor: nothing is fused, and the
    output takes the place of the record.

    Args:
        strides: stride of each stage.
        blocks: residual blocks of each stage.
        recorded: channels of each record, by stride.
        stride: of the current tensor, which is the newest record there.
        make_block: makes the residual blocks.

    Attributes:
        recorded: channels of each record after the decoder has run.
        stride: of the current tensor then.

    Raises:
        ValueError: the lists differ in length, or nothing is recorded at a stage's stride.
    """

    def __init__(
        self,
        strides: Sequence[int],
        blocks: Sequence[int],
        recorded: Mapping[int, Sequence[int]],
        stride: int,
        make_block: BlockFactory,
    ) -> None:
        super().__init__()
        if len(strides) != len(blocks):
            raise ValueError(
                "a stacked decoder's strides and blocks must have one entry per stage; got "
                f"{len(strides)} and {len(blocks)}"
            )
        self.first_stride = stride
        self.strides = tuple(strides)
        self.recorded = {key: list(widths) for key, widths in recorded.items()}
        self.stages = nn.ModuleList()
        for target, count in zip(strides, blocks, strict=True):
            if target not in self.recorded:
                raise ValueError(
                    f"a stacked decoder has no record at stride {target} to start a stage from; "
                    f"there are {sorted(self.recorded)}"
                )
            records = self.recorded[target]
            width, fuse = records[-1], None
            if target != stride:
                fused = records[-FUSED_RECORDS:]
                fuse = ResizedFuse(
                    [self.recorded[stride][-1], *fused],
                    [stride, *[target] * len(fused)],
                    width,
                    target,
                )
                records.append(width)
            self.stages.append(
                DecoderStage(fuse, [make_block(width, width, target) for _ in range(count)])
            )
            stride = target
        self.stride = stride

    def forward(
        self,
        records: Mapping[int, Sequence[Tensor]],
        after_block: AfterBlock | None = None,
    ) -> dict[int, list[Tensor]]:
        """Adds the stages' outputs to the records.

        Args:
            records: by stride, oldest first, each ``[B, C, h, w]`` before activation.
            after_block: called between the blocks.

        Returns:
            The records and the stages' outputs, alike.
        """
        extended = {stride: list(tensors) for stride, tensors in records.items()}
        current = self.first_stride
        x = extended[current][-1]
        for number, (stride, stage) in enumerate(zip(self.strides, self.stages, strict=True), 1):
            after = None if after_block is None else partial(after_block, f"stage{number}")
            x = stage(x, extended[stride], after)
            if stride == current:
                extended[stride][-1] = x
            else:
                extended[stride].append(x)
            current = stride
        return extended
