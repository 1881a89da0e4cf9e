"""MaX-DeepLab: masks and classes straight from the image, by a dual-path transformer.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3; deeplab2
``model/encoder/axial_resnet.py`` and ``model/deeplab.py``.

The backbone is the part that was pre-trained on ImageNet. All that MaX-DeepLab adds is outside of
it, also the memory and its transformers between the blocks of the backbone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.backbones.backbone import (
    Backbone,
    MemoryBackbone,
    keep_probability,
    records_by_stride,
)
from axialseg.decoders.max_deeplab import MaskHeads, MaxDeepLabHeads
from axialseg.decoders.stacked import (
    AfterBlock,
    BlockFactory,
    StackedDecoder,
    StackedDecoderFactory,
)
from axialseg.layers.convolution import ConvNormAct
from axialseg.layers.dual_path_transformer import DualPathTransformer
from axialseg.layers.initialization import truncated_normal_
from axialseg.layers.residual_block import BottleneckBranch, ResidualBlock
from axialseg.models.panoptic_deeplab import DecoderFactory


class TransformerFactory(Protocol):
    """Makes a transformer; `DualPathTransformer` with its options set is one."""

    def __call__(
        self,
        pixel_channels: int,
        memory_channels: int,
        channels: int,
        *,
        keep_probability: float,
    ) -> DualPathTransformer:
        """See `DualPathTransformer`."""
        ...


class MaxDeepLab(nn.Module):
    """Backbone with a memory path, more decoder stages, and three heads.

    Args:
        backbone: see `Backbone`; the memory looks into it if it is a `MemoryBackbone`.
        semantic_channels: channels of the auxiliary semantic head.
        extra_stages: makes the decoder stages that go on where the backbone ends; the last one is
            at the stride of the masks.
        transformer: makes the transformer after a block.
        transformer_channels: K of the transformers after each block of a stage of the backbone
            (``stage1`` .. ``stage5`` of a `MemoryBackbone`), and of the decoder stages, the
            backbone's and the extra ones, at the stride of ``res5`` (``decoder``). A stage without
            an entry has none.
        semantic_decoder: makes the decoder of the auxiliary semantic head on the backbone's
            features; None lets the head read the last but one record at the stride of the masks.
        class_channels: classes and "no object"; None is `semantic_channels`, right where the
            channels of the semantic head are the classes and void (COCO).
        memory_channels: C_m.
        slots: N, masks that can be predicted for an image.
        memory_slots: rows of the learned memory, the first N of which are used; None is N.
        slot_channels: width of the slots' features for masks and classes.
        embedding_channels: of pixels and of slots, whose products are the masks.
        pixel_head_channels: inner width of the pixel head.
        semantic_head_channels: inner width of the semantic head.

    Raises:
        ValueError: `transformer_channels` names no stage of the backbone, or there are more slots
            than rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        semantic_channels: int,
        extra_stages: StackedDecoderFactory,
        transformer: TransformerFactory,
        transformer_channels: Mapping[str, int],
        semantic_decoder: DecoderFactory | None,
        class_channels: int | None = None,
        memory_channels: int = 256,
        slots: int = 128,
        memory_slots: int | None = None,
        slot_channels: int = 256,
        embedding_channels: int = 128,
        pixel_head_channels: int = 256,
        semantic_head_channels: int = 256,
    ) -> None:
        super().__init__()
        rows = slots if memory_slots is None else memory_slots
        if slots > rows:
            raise ValueError(f"{slots} slots need as many rows of the memory, not {rows}")
        self.backbone = backbone
        recorded: Mapping[int, Sequence[int]]
        recorded = records_by_stride(backbone.channels, backbone.strides)
        stride, make_block = backbone.strides["res5"], cast(BlockFactory, _bottleneck_block)
        self.memory_looks_inside = isinstance(backbone, MemoryBackbone)
        if isinstance(backbone, MemoryBackbone):
            make_block = backbone.decoder_block
            if backbone.stacked_decoder is not None:
                backbone.stacked_decoder.requires_grad_(True)  # here the outputs need it
                recorded, stride = (
                    backbone.stacked_decoder.recorded,
                    backbone.stacked_decoder.stride,
                )
        self.extra_stages = extra_stages(recorded=recorded, stride=stride, make_block=make_block)
        self.slots = slots
        self.memory = nn.Parameter(truncated_normal_(torch.empty(1, rows, memory_channels), 1.0))
        self.transformers = _transformers(
            backbone, self.extra_stages, transformer, transformer_channels, memory_channels
        )
        self.class_feature = ConvNormAct(memory_channels, slot_channels)
        self.mask_feature = ConvNormAct(memory_channels, slot_channels)
        records = self.extra_stages.recorded[self.extra_stages.stride]
        self.semantic_decoder = (
            None if semantic_decoder is None else semantic_decoder(backbone.channels)
        )
        self.heads = MaxDeepLabHeads(
            records[-1],
            slot_channels,
            records[-2] if self.semantic_decoder is None else self.semantic_decoder.out_channels,
            semantic_channels if class_channels is None else class_channels,
            semantic_channels,
            embedding_channels,
            pixel_head_channels,
            semantic_head_channels,
        )

    def forward(self, image: Tensor, valid: Tensor | None = None) -> MaskHeads:
        """Predicts the raw heads.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.
        """
        memory = self.memory[:, : self.slots].transpose(1, 2).expand(image.shape[0], -1, -1)
        path = _MemoryPath(self.transformers, memory)
        features, records = self._decoded(image, valid, path)
        records = self.extra_stages(records, path.through("extra"))[self.extra_stages.stride]
        if self.semantic_decoder is not None:
            semantic = self.semantic_decoder(features)
        else:
            semantic = F.relu(records[-2])
        slots = path.memory.unsqueeze(-1)
        return self.heads(
            F.relu(records[-1]),
            self.class_feature(slots).squeeze(-1),
            self.mask_feature(slots).squeeze(-1),
            semantic,
        )

    def _decoded(
        self, image: Tensor, valid: Tensor | None, path: "_MemoryPath"
    ) -> tuple[Mapping[str, Tensor], Mapping[int, Sequence[Tensor]]]:
        """The backbone's features, activated, and what the extra stages start from."""
        if not self.memory_looks_inside:
            features = self.backbone(image, valid)
            return features, records_by_stride(features, self.backbone.strides)
        backbone = cast(MemoryBackbone, self.backbone)
        stages = backbone.raw_stages(image, valid, path.through("backbone"))
        raw = {name.replace("stage", "res"): x for name, x in stages.items()}
        records = records_by_stride(raw, backbone.strides)
        if backbone.stacked_decoder is not None:
            records = backbone.stacked_decoder(records, path.through("decoder"))
        return {name: F.relu(x) for name, x in raw.items()}, records


class _MemoryPath:
    """The memory on its way through one forward pass.

    Attributes:
        memory: ``[B, C_m, N]``, as the last transformer left it.
    """

    def __init__(self, transformers: nn.ModuleDict, memory: Tensor) -> None:
        self.memory = memory
        self._transformers = transformers

    def through(self, part: str) -> AfterBlock:
        """The transformers of a part of the network, to be called after its blocks."""
        stages = cast(nn.ModuleDict, self._transformers[part])

        def after_block(stage: str, block: int, x: Tensor) -> Tensor:
            if stage in stages:
                x, self.memory = cast(nn.ModuleDict, stages[stage])[str(block)](x, self.memory)
            return x

        return after_block


def _bottleneck_block(in_channels: int, channels: int, stride: int) -> ResidualBlock:
    """What the decoder stages are made of where the backbone names no kind of its own."""
    quarter = channels // 4
    return ResidualBlock(
        BottleneckBranch(in_channels, quarter, quarter, channels), in_channels, channels
    )


def _transformers(
    backbone: Backbone,
    extra_stages: StackedDecoder,
    transformer: TransformerFactory,
    channels: Mapping[str, int],
    memory_channels: int,
) -> nn.ModuleDict:
    """Transformers by part (backbone, decoder, extra), stage and block; see `MaxDeepLab`."""
    inside = backbone if isinstance(backbone, MemoryBackbone) else None
    stages = {} if inside is None else inside.stages
    unknown = set(channels) - {*stages, "decoder"}
    if unknown:
        raise ValueError(
            f"transformer_channels names {sorted(unknown)[0]}, but the memory can look into "
            f"{', '.join([*stages, 'decoder'])} only"
        )

    def after_each(blocks: nn.Module, pixel_channels: int, width: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                str(index): transformer(
                    pixel_channels,
                    memory_channels,
                    width,
                    keep_probability=keep_probability(block),
                )
                for index, block in enumerate(cast(Iterable[nn.Module], blocks))
            }
        )

    parts = nn.ModuleDict({part: nn.ModuleDict() for part in ("backbone", "decoder", "extra")})
    for stage, blocks in stages.items():
        if stage in channels:
            width = backbone.channels[stage.replace("stage", "res")]
            cast(nn.ModuleDict, parts["backbone"])[stage] = after_each(
                blocks, width, channels[stage]
            )
    stacked = None if inside is None else inside.stacked_decoder
    for part, decoder in (("decoder", stacked), ("extra", extra_stages)):
        if decoder is None or "decoder" not in channels:
            continue
        levels = zip(decoder.strides, decoder.stages, strict=True)
        for number, (stride, level) in enumerate(levels):
            if stride == backbone.strides["res5"]:
                cast(nn.ModuleDict, parts[part])[f"stage{number + 1}"] = after_each(
                    cast(nn.Module, level.blocks), decoder.recorded[stride][-1], channels["decoder"]
                )
    return parts
