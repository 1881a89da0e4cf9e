"""Golden numbers of the authors' TensorFlow code, and the rule that fills weights and images.

The numbers were computed with google-research/deeplab2 (commit 64bc1c1a) in float32 on a CPU.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialseg.checkpoints.tensorflow.deeplab2 import to_torch_layout, variable_names
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR

GOLDENS = Path(__file__).parent / "goldens" / "deeplab2"
TOLERANCE = 1e-4  # of a tensor's largest magnitude
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@cache
def arrays(name: str) -> dict[str, NDArray]:
    """All arrays of ``<name>.npz``; what is equal is stored once, the pairs are in ``same_as``."""
    with np.load(GOLDENS / f"{name}.npz") as archive:
        found = dict(archive)
    for key, stored in found.pop("same_as", ()):
        found[str(key)] = found[str(stored)]
    return found


@cache
def facts(name: str) -> dict:
    """The ``<name>.json`` beside the arrays."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


def unit(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) that follow from a text alone."""
    seed = zlib.crc32(name.encode("utf-8"))
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def rule_image(tag: str, batch: int, height: int, width: int) -> Tensor:
    """The golden input ``[B, 3, H, W]``, integers 0..255 as float32."""
    low = unit(f"{tag}/low", (batch, -(-height // 8), -(-width // 8), 3))
    low = low.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    high = unit(tag, (batch, height, width, 3))
    image = np.floor(256 * (0.5 * high + 0.5 * low))
    return torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def rule_weights(manifest: dict) -> dict[str, NDArray[np.float32]]:
    """TensorFlow name -> weights, filled by the rule."""
    weights = {}
    for key, shape, _dtype, _kind, _trainable, offset, scale in manifest["variables"]:
        sym = np.float32(2) * unit(key, tuple(shape)) - np.float32(1)
        weights[key.removesuffix(SUFFIX)] = np.float32(offset) + np.float32(scale) * sym
    return weights


def load_weights(module: nn.Module, weights: dict[str, NDArray]) -> None:
    """Fills the module; every one of its tensors must be there and every weight must be used."""
    names = variable_names(module)
    assert sorted(names.values()) == sorted(weights)
    state = module.state_dict()
    with torch.no_grad():
        for ours, theirs in names.items():
            value = to_torch_layout(theirs, weights[theirs], tuple(state[ours].shape))
            state[ours].copy_(torch.from_numpy(value))


def nchw(array: NDArray) -> Tensor:
    """NHWC array -> NCHW tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def nhwc(tensor: Tensor) -> NDArray:
    """NCHW tensor -> NHWC array."""
    return tensor.detach().movedim(1, -1).numpy()


def our_panoptic(authors: NDArray, divisor: int) -> NDArray:
    """A panoptic map of the authors, class * divisor + instance, with our divisor."""
    return authors // divisor * CLASS_DIVISOR + authors % divisor


def assert_close(
    actual: NDArray, expected: NDArray, what: str, limit: float = TOLERANCE, floor: float = 1e-6
) -> None:
    """|actual - expected| <= limit * max |expected|, but never stricter than `floor`."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} instead of {expected.shape}"
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    bound = max(limit * np.abs(expected).max(initial=0.0), floor)
    assert error <= bound, f"{what}: off by {error:.3g}, allowed {bound:.3g}"


def in_float32(heads: Any) -> Any:
    """Heads, nested or not, in the precision of the authors' losses.

    Their losses leave out what float32 rounds to 0, so that they differ in float64.
    """
    if isinstance(heads, torch.Tensor):
        return heads.float() if heads.is_floating_point() else heads
    if isinstance(heads, tuple):
        parts = [in_float32(part) for part in heads]
        return type(heads)(*parts) if hasattr(heads, "_fields") else tuple(parts)
    return heads
