"""Opens deeplab2's TensorFlow checkpoints for a network of ours."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from axialseg.checkpoints.stored_weights import StoredTensor, StoredWeights, part_of
from axialseg.checkpoints.tensorflow.deeplab2 import (
    layout_fits,
    to_torch_axes,
    to_torch_layout,
    variable_names,
    with_rank,
)
from axialseg.checkpoints.tensorflow.tensor_bundle import (
    VARIABLE_SUFFIX,
    TensorBundle,
    find_prefix,
    variables,
)
from axialseg.errors import UserError

ENCODER = "encoder/"
IMAGENET_ENCODER = "backbone/_encoder/"  # the same variables in checkpoints of the classifiers
STEPS = "global_step"
# One value per class each.
SEMANTIC_HEAD = "semantic_last_layer/bias"
CLASS_HEAD = "transformer_class_head/_conv/bias"  # of MaX-DeepLab
TRANSFORMER = "_transformer"  # end of the names of MaX-DeepLab's, which lie among a stage's blocks


def open_tensorflow_weights(path: Path, net: nn.Module) -> StoredWeights:
    """Opens a TensorFlow checkpoint; only its index is read until a tensor is asked for.

    Args:
        path: Its prefix, one of its files, or its folder.
        net: Its parts decide what is known.

    Raises:
        UserError: There is no checkpoint, it is incomplete or damaged, or the network has a layer
            that deeplab2 has not.
    """
    bundle = TensorBundle(find_prefix(path))
    entries, others = variables(bundle)
    skipped = {key.removesuffix(VARIABLE_SUFFIX): reason for key, reason in others.items()}
    steps = entries.pop(STEPS, None)
    if steps is not None:
        skipped[STEPS] = "number of the training step"
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    try:
        names = {theirs: ours for ours, theirs in variable_names(net).items()}
    except KeyError as error:
        raise UserError(
            f"{path} is a TensorFlow checkpoint, but this model has no counterpart there "
            f"({error.args[0]}); choose another model or checkpoint."
        ) from error
    parts = {_group(theirs): part_of(ours) for theirs, ours in names.items()}

    tensors: dict[str, StoredTensor] = {}
    unknown: dict[str, str | None] = {}
    for file_name, entry in entries.items():
        theirs = file_name
        if file_name.startswith(IMAGENET_ENCODER):
            theirs = ENCODER + file_name.removeprefix(IMAGENET_ENCODER)
        ours = names.get(theirs)
        if ours is None:
            unknown[file_name] = parts.get(_group(theirs))
            continue
        # A view of a single zero: the shape in our order without reading anything.
        axes = to_torch_axes(theirs, np.broadcast_to(np.float32(0), entry.shape)).shape
        fits = layout_fits(theirs, axes, own[ours])
        shape = own[ours] if fits else with_rank(theirs, axes, len(own[ours]))
        tensors[ours] = StoredTensor(
            file_name, shape, partial(_read, bundle, entry.key, theirs, shape)
        )
    count = 0 if steps is None else int(bundle.read(steps.key))
    return StoredWeights(str(bundle.prefix), tensors, unknown, skipped, count)


def head_channels(path: Path) -> tuple[int, int | None]:
    """Channels of the semantic head and of MaX-DeepLab's class head in a TensorFlow checkpoint.

    Args:
        path: See `open_tensorflow_weights`.

    Returns:
        1 and None for heads that are not there, as in a checkpoint of a backbone.

    Raises:
        UserError: There is no checkpoint, or it is incomplete or damaged.
    """
    entries = variables(TensorBundle(find_prefix(path))).entries
    semantic, classes = entries.get(SEMANTIC_HEAD), entries.get(CLASS_HEAD)
    return semantic.shape[0] if semantic else 1, classes.shape[0] if classes else None


def _read(bundle: TensorBundle, key: str, name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(to_torch_layout(name, bundle.read(key), shape))


def _group(name: str) -> str:
    """Item of a checkpoint, or child of the encoder, that corresponds to a part of ours.

    Numbers count for nothing, so that a further stage belongs where the others do.
    """
    words = name.split("/")
    if any(word.endswith(TRANSFORMER) for word in words):
        return TRANSFORMER
    depth = 2 if name.startswith(ENCODER) else 1
    return re.sub(r"\d+", "", "/".join(words[:depth]))
