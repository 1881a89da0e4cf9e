"""Our names and layouts beside those of deeplab2's TensorFlow checkpoints.

`CHILD_NAMES` says, for each class of ours, what the TensorFlow object calls the child that we call
so. `variable_names` walks a model along it; the map is one-to-one and complete (tested against the
list of variables of each published architecture).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.decoders.context import ASPP, NoContext, PointwiseContext
from axialseg.decoders.kmeans_transformer import KMeansTransformer
from axialseg.decoders.max_deeplab import MaskPredictor, MaxDeepLabHeads
from axialseg.decoders.panoptic_deeplab import PanopticDeepLabDecoder, PredictionHead
from axialseg.decoders.pixel_decoder import PixelDecoder
from axialseg.decoders.stacked import StackedDecoder
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AxialAttention, AxialAttention2d
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, SeparableConvNormAct
from axialseg.layers.dual_path_transformer import DualPathTransformer, NormalizedAttention
from axialseg.layers.layer_norm import ChannelNorm
from axialseg.layers.residual_block import BasicBranch, BottleneckBranch, ResidualBlock
from axialseg.layers.resized_fuse import ResizedFuse
from axialseg.layers.stem import ConvStem, InceptionStem
from axialseg.models.kmax_deeplab import KMaxDeepLab
from axialseg.models.max_deeplab import MaxDeepLab
from axialseg.models.panoptic_deeplab import PanopticDeepLab


def _max_deeplab_names(net: nn.Module) -> dict[str, str]:
    """Names of MaX-DeepLab's parts.

    deeplab2 counts the stages of the extra decoder on from the backbone's, whose last one the first
    extra stage continues.
    """
    assert isinstance(net, MaxDeepLab)
    names = {
        "backbone": "encoder",
        "memory": "encoder/memory_feature",
        "class_feature": "encoder/_class_feature_extra",
        "mask_feature": "encoder/_mask_feature_extra",
        "semantic_decoder": "semantic_decoder",
        "heads": "",
    }
    for stage in range(1, 6):
        names[f"transformers.backbone.stage{stage}.{{n}}"] = (
            f"encoder/_stage{stage}/_block{{n+1}}_transformer"
        )
    decoder = getattr(net.backbone, "stacked_decoder", None)
    count = 0 if decoder is None else len(decoder.stages)
    for stage in range(1, count + 1):
        names[f"transformers.decoder.stage{stage}.{{n}}"] = (
            f"encoder/_decoder_stage{stage}/_block{{n+1}}_transformer"
        )
    for index in range(len(net.extra_stages.stages)):
        number = count + index
        theirs = f"encoder/_decoder_stage{number}" if number else "encoder/_stage5"
        names[f"extra_stages.stages.{index}.fuse"] = f"{theirs}_extra_resized_fuse"
        names[f"extra_stages.stages.{index}.blocks"] = f"{theirs}_extra"
        names[f"transformers.extra.stage{index + 1}.{{n}}"] = (
            f"{theirs}_extra/_block{{n+1}}_transformer"
        )
    return names


# Our class -> {path below it: path below the TensorFlow object}; "" keeps the same object. A path
# of ours may end at a child module or at a parameter. "{n}" stands for a number, "{n+1}" for the
# next, "{n-1}" for the one before. Where the names depend on the object, a function of it stands in
# for the table.
NameTable = dict[str, str]
CHILD_NAMES: dict[type[nn.Module], NameTable | Callable[[nn.Module], NameTable]] = {
    BatchNorm: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    ConvNorm: {"conv.weight": "_conv/kernel", "norm": "_batch_norm"},
    SeparableConvNormAct: {
        "depthwise.weight": "_conv1_bn_act/_depthwise/_depthwise_conv/depthwise_kernel",
        "depthwise_norm": "_conv1_bn_act/_depthwise/_batch_norm",
        "pointwise": "_conv1_bn_act/_pointwise",
    },
    AxialAttention: {
        "qkv.conv.weight": "qkv_kernel",
        "qkv.norm": "_batch_norm_qkv",
        "similarity_norm": "_batch_norm_similarity",
        "retrieval_norm": "_batch_norm_retrieved_output",
        "query_table": "_query_rpe/embeddings",
        "key_table": "_key_rpe/embeddings",
        "value_table": "_value_rpe/embeddings",
    },
    AxialAttention2d: {"height_axis": "_height_axis", "width_axis": "_width_axis"},
    AttentionBranch: {"conv1": "_conv1_bn_act", "attention": "_attention", "conv2": "_conv3_bn"},
    BottleneckBranch: {
        "conv1": "_conv1_bn_act",
        "conv2": "_conv2_bn_act",
        "conv3": "_conv3_bn",
    },
    BasicBranch: {"conv1": "_conv1_bn_act", "conv2": "_conv2_bn"},
    ResidualBlock: {"branch": "", "shortcut": "_shortcut"},
    nn.Sequential: {"{n}": "_block{n+1}"},  # the blocks of a stage
    ConvStem: {"conv": ""},
    InceptionStem: {"conv1": "_conv1_bn_act", "conv2": "_conv2_bn_act", "conv3": "_conv3_bn"},
    ResidualNetwork: {
        "stem": "_stem",
        **{f"stages.stage{stage}": f"_stage{stage}" for stage in range(1, 6)},
        "stacked_decoder": "",
    },
    ResizedFuse: {
        "strided.{n}": "_strided_conv_bn{n+1}",
        "resized.{n}": "_resized_conv_bn{n+1}",
    },
    StackedDecoder: {
        "stages.{n}.fuse": "_decoder_stage{n+1}_resized_fuse",
        "stages.{n}.blocks": "_decoder_stage{n+1}",
    },
    NoContext: {},
    PointwiseContext: {
        "conv.weight": "_proj_conv_bn_act/_conv/kernel",
        "norm": "_proj_conv_bn_act/_batch_norm",
    },
    ASPP: {
        "point": "_conv_bn_act",
        "atrous.{n}": "_aspp_conv{n+1}/_conv_bn_act",
        "pooled": "_aspp_pool/_conv_bn_act",
        "project": "_proj_conv_bn_act",
    },
    PanopticDeepLabDecoder: {
        "context": "_aspp",
        "projections.{n}": "_low_level_conv{n+1}",
        "fusions.{n}": "_fusion_conv{n+1}",
    },
    PredictionHead: {
        "fuse": "conv_block",
        "predict.weight": "final_conv/kernel",
        "predict.bias": "final_conv/bias",
    },
    NormalizedAttention: {
        "similarity_norm": "_batch_norm_similarity",
        "retrieval_norm": "_batch_norm_retrieved_value",
    },
    DualPathTransformer: {
        "memory_conv1": "_memory_conv1_bn_act",
        "pixel_conv1": "_pixel_conv1_bn_act",
        "memory_qkv": "_memory_qkv_conv_bn",
        "memory_query": "_memory_query_conv_bn",
        "pixel_qkv": "_pixel_qkv_conv_bn",
        "pixel_kv": "_pixel_kv_conv_bn",
        "memory_attention": "_memory_attention",
        "pixel_attention": "_pixel_attention",
        "memory_conv3": "_memory_conv3_bn",
        "feed_forward.conv1": "_memory_ffn_conv1_bn_act",
        "feed_forward.conv2": "_memory_ffn_conv2_bn",
        "pixel_conv3": "_pixel_conv3_bn",
    },
    ChannelNorm: {"weight": "gamma", "bias": "beta"},
    PixelDecoder: {
        "norms.{n}": "_backbone_norms/{n}",
        "stages.{n}.blocks": "_stages/{n}",
        "stages.{n}.fuse": "_skip_connections/{n-1}",
    },
    KMeansTransformer: {
        "center_conv1": "_memory_conv1_bn_act",
        "pixel_conv1": "_pixel_conv1_bn_act",
        "predictor": "_auxiliary_clustering_predictor",
        "pixel_value": "_pixel_v_conv_bn",
        "kmeans_norm": "_kmeans_memory_batch_norm_retrieved_value",
        "kmeans_conv3": "_kmeans_memory_conv3_bn",
        "center_qkv": "_memory_qkv_conv_bn",
        "center_attention": "_memory_attention",
        "center_conv3": "_memory_conv3_bn",
        "feed_forward.conv1": "_memory_ffn_conv1_bn_act",
        "feed_forward.conv2": "_memory_ffn_conv2_bn",
    },
    MaskPredictor: {
        "pixel_head": "_pixel_space_head",
        "pixel_norm": "_pixel_space_feature_batch_norm",
        "mask_head": "_transformer_mask_head",
        "mask_norm": "_pixel_space_mask_batch_norm",
        "class_head.weight": "_transformer_class_head/_conv/kernel",
        "class_head.bias": "_transformer_class_head/_conv/bias",
    },
    MaxDeepLabHeads: {
        "pixel_head": "pixel_space_head",
        "pixel_norm": "pixel_space_feature_batch_norm",
        "mask_head": "transformer_mask_head",
        "mask_norm": "pixel_space_mask_batch_norm",
        "class_head.weight": "transformer_class_head/_conv/kernel",
        "class_head.bias": "transformer_class_head/_conv/bias",
        "semantic_head.fuse": "semantic_head_without_last_layer",
        "semantic_head.predict.weight": "semantic_last_layer/kernel",
        "semantic_head.predict.bias": "semantic_last_layer/bias",
    },
    MaxDeepLab: _max_deeplab_names,
    KMaxDeepLab: {
        "backbone": "encoder",
        "pixel_decoder": "pixel_decoder",
        "cluster_centers": "transformer_decoder/cluster_centers",
        "transformers.{n}": "transformer_decoder/_kmax_decoder/{n}/_block1_transformer",
        "class_feature": "transformer_decoder/_class_embedding_projection",
        "mask_feature": "transformer_decoder/_mask_embedding_projection",
        "semantic_decoder": "semantic_decoder",
        "heads": "",
    },
    PanopticDeepLab: {
        "backbone": "encoder",
        "semantic_decoder": "semantic_decoder",
        "instance_decoder": "instance_decoder",
        **{
            f"{ours}.{child}": theirs.format(part)
            for ours, theirs in {
                "semantic_head": "semantic_{}",
                "center_head": "instance_center_head_{}",
                "offset_head": "instance_regression_head_{}",
            }.items()
            for child, part in {
                "fuse": ("head_" if ours == "semantic_head" else "") + "without_last_layer",
                "predict.weight": "last_layer/kernel",
                "predict.bias": "last_layer/bias",
            }.items()
        },
    },
}


def variable_names(module: nn.Module) -> dict[str, str]:
    """Name of each parameter and statistic of `module` -> TensorFlow's path below the same object.

    Raises:
        KeyError: if the module holds something that `CHILD_NAMES` does not know.
    """
    names: dict[str, str] = {}
    state = module.state_dict(keep_vars=True)
    _collect(module, "", "", names)
    unnamed = sorted(set(state) - set(names))
    if unnamed:
        raise KeyError(f"no TensorFlow name is known for {unnamed[0]}")
    return names


def _collect(module: nn.Module, ours: str, theirs: str, names: dict[str, str]) -> None:
    table = next((CHILD_NAMES[c] for c in type(module).__mro__ if c in CHILD_NAMES), None)
    if table is None:
        raise KeyError(f"no TensorFlow names are known for {type(module).__name__} at {ours!r}")
    if not isinstance(table, dict):
        table = table(module)
    for pattern, name in table.items():
        for path, index in _matches(module, pattern):
            target = name
            for change, text in ((0, "{n}"), (1, "{n+1}"), (-1, "{n-1}")):
                target = target.replace(text, str(index + change))
            their_path = "/".join(part for part in (theirs, target) if part)
            our_path = f"{ours}.{path}" if ours else path
            child = _follow(module, path)
            if isinstance(child, nn.Module):
                _collect(child, our_path, their_path, names)
            elif child is not None:
                names[our_path] = their_path


def _matches(module: nn.Module, pattern: str) -> list[tuple[str, int]]:
    """Paths that the pattern stands for, with the number in it (0 if it has none)."""
    if "{n}" not in pattern:
        return [(pattern, 0)] if _follow(module, pattern) is not None else []
    parent, _, rest = pattern.partition("{n}")
    container = _follow(module, parent.removesuffix(".")) if parent else module
    numbers: list[int] = []
    if isinstance(container, nn.ModuleDict):
        numbers = [int(key) for key in container]
    elif isinstance(container, nn.Sequential | nn.ModuleList):
        numbers = list(range(len(container)))
    paths = [(f"{parent}{n}{rest}", n) for n in numbers]
    return [(path, n) for path, n in paths if _follow(module, path) is not None]


def _follow(module: nn.Module, path: str) -> object:
    current: object = module
    for name in path.split("."):
        if isinstance(current, nn.ModuleDict):
            current = current[name] if name in current else None  # noqa: SIM401 (it has no get)
        else:
            current = getattr(current, name, None)
    return current


def to_torch_axes(name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Views a TensorFlow variable with its axes in our order.

    Convolution kernels ``[kh, kw, in, out]`` become ``[out, in, kh, kw]``, depth-wise kernels
    ``[kh, kw, C, 1]`` ``[C, 1, kh, kw]``, 1-D kernels ``[1, in, out]`` ``[out, in, 1]`` and
    ``qkv_kernel`` ``[in, out]`` ``[out, in]``; all others stay.

    Args:
        name: last part of the TensorFlow name (``kernel``, ``gamma`` ...), or the whole name.
        value: the variable.
    """
    kind = name.rsplit("/", 1)[-1]
    if kind == "depthwise_kernel":
        return value.transpose(2, 3, 0, 1)
    if kind.endswith("kernel"):
        return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
    return value


def to_torch_layout(name: str, value: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray:
    """Lays a TensorFlow variable out as our parameter of `shape`.

    After `to_torch_axes`, kernels get or lose axes of length 1 at the end, and statistics over
    stacked dimensions are flattened in order.

    Args:
        name: last part of the TensorFlow name (``kernel``, ``gamma`` ...), or the whole name.
        value: the variable.
        shape: shape of our parameter.

    Raises:
        ValueError: if the shapes do not agree.
    """
    value = to_torch_axes(name, value)
    if not layout_fits(name, value.shape, shape):
        raise ValueError(f"{name} has shape {value.shape}, but the model needs {shape}")
    return np.ascontiguousarray(value.reshape(shape))


def layout_fits(name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a variable whose shape is `axes` in our order is our parameter of `shape`."""
    if not name.endswith("kernel"):
        return math.prod(axes) == math.prod(shape)
    common = min(len(axes), len(shape))
    return axes[:common] == shape[:common] and {1}.issuperset(axes[common:] + shape[common:])


def with_rank(name: str, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The shape `axes` of a kernel with axes of length 1 put or left out at its end, if it can be.

    So a kernel for another number of classes differs from ours in that number alone.
    """
    if not name.endswith("kernel") or any(size != 1 for size in axes[rank:]):
        return axes
    return (axes + (1,) * rank)[:rank]
