"""The ImageNet weights that csrhddlam/axial-deeplab has released, in our names and layouts.

They are for the backbone ``model/backbone=axial_resnet_26_s_release``, an Axial-ResNet that strides
by means; `ImageClassifier` takes their last layer too. Source: that project's
``lib/models/axialnet.py`` (commit 79088ed). What differs besides the names:

* Rows of a projection come head by head, each head's queries, keys, values; ours are all queries,
  all keys, all values, each head by head.
* One table ``[channels, 2 * size - 1]`` holds the rows for queries, keys and values. Those for
  queries and values count query - key, those for keys key - query; ours all count key - query.
* It is as long as its feature map needs. Our longer tables repeat its first and last row, as
  offsets beyond a table do here anyway.
* The norm of the retrieved terms has both terms of a channel side by side; ours has one term after
  the other.
* Their norms add 1e-5 to the variance and ours 1e-3: the difference is taken off the running
  variances, so that evaluation has the same numbers.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

HEADS = 8
EPSILON_DIFFERENCE = 1e-3 - 1e-5
MARK = "layer1.0.hight_block.relative"

# Theirs -> ours, below the network and below a block.
OUTSIDE = {"conv1": "backbone.stem.conv.conv", "bn1": "backbone.stem.conv.norm", "fc": "classifier"}
INSIDE = {
    "conv_down": "branch.conv1.conv",
    "bn1": "branch.conv1.norm",
    "conv_up": "branch.conv2.conv",
    "bn2": "branch.conv2.norm",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
    "hight_block": "branch.attention.height_axis",
    "width_block": "branch.attention.width_axis",
}
ATTENTION = {
    "qkv_transform": "qkv.conv",
    "bn_qkv": "qkv.norm",
    "bn_similarity": "similarity_norm",
    "bn_output": "retrieval_norm",
}
IGNORED = ("num_batches_tracked", "flatten_index")
BLOCK = re.compile(r"layer(\d)\.(\d+)\.(.+)\.(\w+)")


def is_axial_resnet_release(names: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of that project, with or without ``module.`` before its names."""
    return MARK in names or f"module.{MARK}" in names


def from_axial_resnet_release(state: Mapping[str, Tensor], table_rows: int) -> dict[str, Tensor]:
    """Our names and layouts of a released state dict.

    Args:
        state: as stored.
        table_rows: rows of our relative tables, odd.

    Raises:
        KeyError: a name is of no part of that network.
    """
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.endswith(IGNORED):
            continue
        if name.endswith(".relative"):
            prefix = our_name(name).removesuffix(".relative")
            for kind, table in _tables(value, table_rows).items():
                weights[f"{prefix}.{kind}_table"] = table
        else:
            ours = our_name(name)
            weights[ours] = _in_our_order(ours, value)
    return weights


def our_name(name: str) -> str:
    """Our name of a stored tensor.

    Raises:
        KeyError: it is of no part of that network.
    """
    match = BLOCK.fullmatch(name)
    if match is None:
        part, _, kind = name.rpartition(".")
        return f"{OUTSIDE[part]}.{kind}"
    layer, index, path, kind = match.groups()
    block = f"backbone.stages.stage{int(layer) + 1}.{index}"
    if path in INSIDE:
        return f"{block}.{INSIDE[path]}.{kind}"
    axis, _, rest = path.partition(".")
    return f"{block}.{INSIDE[axis]}.{ATTENTION[rest]}.{kind}"


def _in_our_order(name: str, value: Tensor) -> Tensor:
    """A stored tensor, but a table, as ours of that name."""
    if name.endswith("running_var"):
        value = value - EPSILON_DIFFERENCE
    if ".qkv." in name:
        # [heads, (d / 2 queries, d / 2 keys, d values), ...]
        heads = value.unflatten(0, (HEADS, -1))
        quarter = heads.shape[1] // 4
        parts = heads.split([quarter, quarter, 2 * quarter], dim=1)
        value = torch.cat([part.flatten(0, 1) for part in parts])
        return value.unsqueeze(-1) if name.endswith("conv.weight") else value
    if ".retrieval_norm." in name:
        return value.unflatten(0, (-1, 2)).T.flatten()
    return value


def _tables(relative: Tensor, rows: int) -> dict[str, Tensor]:
    """Our tables ``[rows, depth]`` of ``[depth of queries + keys + values, 2 * size - 1]``."""
    quarter = relative.shape[0] // 4
    query, key, value = relative.split([quarter, quarter, 2 * quarter])
    return {
        "query": _resized(query.flip(1).T, rows),
        "key": _resized(key.T, rows),
        "value": _resized(value.flip(1).T, rows),
    }


def _resized(table: Tensor, rows: int) -> Tensor:
    """The middle rows of a table, or the table with its first and last row repeated."""
    reach, wanted = table.shape[0] // 2, rows // 2
    offsets = torch.arange(-wanted, wanted + 1).clamp(-reach, reach)
    return table[offsets + reach]
