"""Every layer that a model uses, against the authors' numbers: outputs, gradients, statistics."""

from collections.abc import Callable
from functools import partial

import pytest
from golden_data import facts
from layer_goldens import check_layer, golden
from torch import Tensor, nn

from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.checkpoints.tensorflow.deeplab2 import CHILD_NAMES
from axialseg.decoders.context import ASPP, PointwiseContext
from axialseg.decoders.max_deeplab import MaskHeads, MaxDeepLabHeads
from axialseg.decoders.panoptic_deeplab import PanopticDeepLabDecoder, PredictionHead
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AxialAttention, AxialAttention2d
from axialseg.layers.convolution import ConvNorm, ConvNormAct, SeparableConvNormAct
from axialseg.layers.dual_path_transformer import DualPathTransformer, NormalizedAttention
from axialseg.layers.residual_block import BasicBranch, BottleneckBranch, ResidualBlock
from axialseg.layers.resized_fuse import ResizedFuse
from axialseg.layers.stem import InceptionStem

FLAGS = {
    "use_content_similarity": "content_similarity",
    "use_query_rpe_similarity": "query_position",
    "use_key_rpe_similarity": "key_position",
    "retrieve_value_content": "value_content",
    "retrieve_value_rpe": "value_position",
}


class SequenceLayer(nn.Module):
    """Lets a 2-D layer run on ``[N, C, L]``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unsqueeze(-1)).squeeze(-1)


def attention_1d(case: str) -> nn.Module:
    args = facts("layers")[case]["args"]
    flags = {ours: args[theirs] for theirs, ours in FLAGS.items() if theirs in args}
    return SequenceLayer(AxialAttention(12, 16, 32, "height", heads=4, **flags))


def attention_2d(case: str) -> nn.Module:
    args = facts("layers")[case]["args"]
    attention = partial(AxialAttention, heads=args["num_heads"])
    key, value = (args["filters"] * args[f"{part}_expansion"] for part in ("key", "value"))
    return AxialAttention2d(attention, 12, key, value, args["strides"])


def axial_block(key: int, value: int, stride: int) -> nn.Module:
    attention = partial(AxialAttention2d, partial(AxialAttention, heads=4))
    branch = AttentionBranch(attention, 12, 16, 8 * key, 8 * value, 32, stride)
    return ResidualBlock(branch, 12, 32, stride)


def bottleneck(out: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    return ResidualBlock(BottleneckBranch(12, 8, 8, out, stride, dilation), 12, out, stride)


def basic(stride: int, dilation: int, second: int) -> nn.Module:
    return ResidualBlock(BasicBranch(12, 16, stride, dilation, second), 12, 16, stride)


def block_group(case: str) -> nn.Module:
    """A stage of the staged network, whose other stages are empty."""
    args = facts("layers")[case]["args"]
    stage = args["original_resnet_input_stride"].bit_length()
    width = 4 * args["filters"]
    stem = nn.Identity()
    stem.out_channels = facts("layers")[case]["inputs"][0][-1]
    wide = args["backbone_type"] == "wider_resnet"
    network = ResidualNetwork(
        stem=stem,
        stage_blocks=[args["num_blocks"] if k == stage else 0 for k in range(2, 6)],
        stage_channels=[width] * 4,
        conv_blocks=[*["basic"] * 3, "wide_bottleneck"] if wide else ["bottleneck"] * 4,
        attention=partial(AxialAttention, heads=args["axial_layer_config"]["num_heads"]),
        axial_from_stride=args["use_axial_beyond_stride"] or None,
        axial_expansion=args.get("attention_bottleneck_expansion", 2),
        key_expansion=args["axial_layer_config"].get("key_expansion", 1),
        value_expansion=args["axial_layer_config"].get("value_expansion", 2),
        output_stride=args["output_stride"],
    )
    return network.stages[f"stage{stage}"]


class Fuse(nn.Module):
    """Takes the features as separate arguments."""

    def __init__(self, case: str) -> None:
        super().__init__()
        args = facts("layers")[case]["args"]
        channels = [shape[-1] for shape in facts("layers")[case]["inputs"]]
        self.fuse = ResizedFuse(channels, [16, 4, 16, 8], args["num_channels"], 8)
        self.size = (args["height"], args["width"])

    def forward(self, *features: Tensor) -> Tensor:
        return self.fuse(features, self.size)


class Decoder(nn.Module):
    """Takes the features as separate arguments, deepest first."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = PanopticDeepLabDecoder(
            {"res5": 16, "res3": 12, "res2": 8}, partial(PointwiseContext, channels=8), 8, (6, 4)
        )

    def forward(self, res5: Tensor, res3: Tensor, res2: Tensor) -> Tensor:
        return self.decoder({"res5": res5, "res3": res3, "res2": res2})


class AttentionOperation(nn.Module):
    """Takes query and key ``[B, d, h, L]`` and value ``[B, d, L, h]``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = NormalizedAttention(4, 24)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        return self.attention(query, key, value.permute(0, 3, 1, 2))


TRANSFORMER_FLAGS = {
    "use_memory_self_attention": "memory_to_memory",
    "use_pixel2memory_feedback_attention": "pixel_to_memory",
    "feed_forward_network_channels": "feed_forward_channels",
}


def transformer(case: str) -> nn.Module:
    args = facts("layers")[case]["args"]
    flags = {ours: args[theirs] for theirs, ours in TRANSFORMER_FLAGS.items() if theirs in args}
    return DualPathTransformer(20, 12, args["filters"], heads=args["num_heads"], **flags)


class DualPathStage(nn.Module):
    """Axial blocks with a transformer after each."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.blocks = block_group(case)
        self.transformers = nn.ModuleList(
            DualPathTransformer(32, 16, 16, heads=4, feed_forward_channels=24) for _ in self.blocks
        )

    def forward(self, pixels: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        for block, after in zip(self.blocks, self.transformers, strict=True):
            pixels, memory = after(block(pixels), memory)
        return pixels, memory


class Heads(nn.Module):
    """MaX-DeepLab's heads and the auxiliary semantic decoder, in the order of the goldens."""

    def __init__(self, class_channels: int) -> None:
        super().__init__()
        self.decoder = PanopticDeepLabDecoder(
            {"res5": 16, "res3": 12, "res2": 8}, partial(PointwiseContext, channels=8), 8, (6, 4)
        )
        self.heads = MaxDeepLabHeads(8, 10, 8, class_channels, 5, 6, 8, 8)

    def forward(
        self, res5: Tensor, pixels: Tensor, classes: Tensor, masks: Tensor, *low_level: Tensor
    ) -> tuple[Tensor, ...]:
        res3, res2 = low_level
        semantic = self.decoder({"res5": res5, "res3": res3, "res2": res2})
        output: MaskHeads = self.heads(pixels, classes, masks, semantic)
        class_logits = output.class_logits.transpose(1, 2)  # as nchw() has it
        return output.semantic, output.pixel_embedding, class_logits, output.mask_logits


# The original's names of what only these tests put together.
CHILD_NAMES[DualPathStage] = {"blocks": "", "transformers.{n}": "_block{n+1}_transformer"}
CHILD_NAMES[Heads] = {
    "decoder": "_auxiliary_semantic_decoder",
    "heads.semantic_head": "_auxiliary_semantic_head",
    "heads.pixel_head": "_pixel_space_head",
    "heads.pixel_norm": "_pixel_space_feature_batch_norm",
    "heads.mask_norm": "_pixel_space_mask_batch_norm",
    "heads.mask_head": "_transformer_mask_head",
    "heads.class_head.weight": "_transformer_class_head/_conv/kernel",
    "heads.class_head.bias": "_transformer_class_head/_conv/bias",
}


ATTENTION_1D = [
    "all", "no_rpe", "query_rpe_only", "key_rpe_only", "value_rpe_only",
    "no_content_similarity", "no_value_content", "query_and_key_rpe",
]  # fmt: skip
BLOCK_GROUPS = [
    "resnet_beta_stage4_os16", "resnet_stage5_os16_conv", "resnet_stage5_os32_axial",
    "wider_stage4_axial_os16", "wider_stage4_conv_os8", "wider_stage5_conv_os16",
]  # fmt: skip
TRANSFORMERS = [
    "default",
    "no_memory_self_attention",
    "no_pixel2memory",
    "no_self_no_p2m",
    "no_ffn",
]
CASES: dict[str, Callable[[], nn.Module]] = {
    **{
        f"axial_attention_1d/{name}": partial(attention_1d, f"axial_attention_1d/{name}")
        for name in ATTENTION_1D
    },
    "axial_attention_2d/s1_k1v2": partial(attention_2d, "axial_attention_2d/s1_k1v2"),
    "axial_attention_2d/s2_k2v4": partial(attention_2d, "axial_attention_2d/s2_k2v4"),
    "axial_block/axial": lambda: axial_block(1, 2, 1),
    "axial_block/axial_stride2": lambda: axial_block(2, 4, 2),
    "axial_block/bottleneck_stride2": lambda: bottleneck(32, stride=2),
    "axial_block/bottleneck_atrous2": lambda: bottleneck(32, dilation=2),
    "axial_block/bottleneck_identity_stride2": lambda: bottleneck(12, stride=2),
    "axial_block/basic_stride2": lambda: basic(2, 1, 1),
    "axial_block/basic_atrous": lambda: basic(1, 1, 2),
    **{f"block_group/{name}": partial(block_group, f"block_group/{name}") for name in BLOCK_GROUPS},
    "resized_fuse": partial(Fuse, "resized_fuse"),
    "inception_stem": lambda: InceptionStem((8, 8, 16)),
    "conv2d_same/k7_s2_even": lambda: ConvNormAct(5, 6, 7, 2),
    "conv2d_same/k7_s2_odd": lambda: ConvNorm(5, 6, 7, 2),
    "conv2d_same/k3_atrous3": lambda: ConvNormAct(5, 6, 3, dilation=3),
    "separable_conv_5x5": lambda: SeparableConvNormAct(5, 6, 5),
    "aspp/only_1x1": lambda: PointwiseContext(8, 6),
    "aspp/full_global_pool": lambda: ASPP(8, 6, (2, 3, 4), dropout=0.0),
    "aspp/full_pool_size_4x5": lambda: ASPP(8, 6, (2, 3, 4), pool_size=(4, 5), dropout=0.0),
    "panoptic_single_decoder": Decoder,
    "panoptic_single_head": lambda: PredictionHead(8, 6, 3),
    "conv1d": lambda: SequenceLayer(ConvNormAct(5, 7)),
    "attention_operation": AttentionOperation,
    **{
        f"dual_path_transformer/{name}": partial(transformer, f"dual_path_transformer/{name}")
        for name in TRANSFORMERS
    },
    "block_group/resnet_beta_stage5_os16_transformer": partial(
        DualPathStage, "block_group/resnet_beta_stage5_os16_transformer"
    ),
    "max_deeplab_heads/ignore0": lambda: Heads(5),
    "max_deeplab_heads/ignore255": lambda: Heads(6),
}


def bare(module: nn.Module) -> nn.Module:
    wrappers = SequenceLayer | Decoder | Fuse | AttentionOperation
    return next(module.children()) if isinstance(module, wrappers) else module


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", CASES)
def test_layer_equals_the_authors(case: str, mode: str) -> None:
    if not golden("layers", case, mode):
        assert case.startswith("aspp/full")  # stored in evaluation mode only
        assert mode == "train"
        return
    module = CASES[case]()
    is_group = isinstance(module, nn.Sequential | DualPathStage)
    check_layer("layers", case, mode, module, bare(module), is_group)
