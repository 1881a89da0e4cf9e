"""Masks of polygons and run lengths, decoded by pycocotools."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

INNER = "polygons inside another one of their object, united with it (COCO knows no holes)"
DAMAGED = "polygons with fewer than three points or damaged masks, left out"

Mask = NDArray[np.bool_]


def polygon_mask(parts: list[Any], size: tuple[int, int], counts: Counter[str]) -> Mask:
    """The union of polygons.

    Args:
        parts: of one object, each ``[x1, y1, x2, y2, ...]`` in pixels.
        size: (height, width).
        counts: what is left out or united is added to it.

    Returns:
        bool ``[H, W]``; empty if no part can be drawn.
    """
    whole = []
    for part in parts:
        points = _points(part)
        if points is None:
            counts[DAMAGED] += 1
        else:
            whole.append(points)
    if not whole:
        return np.zeros(size, bool)
    masks = [_decoded(coco_masks.frPyObjects([points], *size)[0]) for points in whole]
    for number, mask in enumerate(masks):
        others = masks[:number] + masks[number + 1 :]
        counts[INNER] += any(bool((other >= mask).all()) and mask.any() for other in others)
    united: Mask = np.logical_or.reduce(masks)
    return united


def run_length_mask(runs: dict[str, Any], size: tuple[int, int], counts: Counter[str]) -> Mask:
    """The mask of run lengths in COCO's form, compressed (a text) or not (a list).

    Returns:
        bool ``[H, W]``; empty if it is damaged or of another size.
    """
    try:
        height, width = (int(side) for side in runs["size"])
        lengths = runs["counts"]
        if (height, width) != size:
            raise ValueError("another size")
        if not isinstance(lengths, list):
            lengths = _unpacked(lengths)
        # pycocotools draws something of any numbers.
        if sum(lengths) != height * width or min(lengths, default=0) < 0:
            raise ValueError("another number of pixels")
        return _decoded(coco_masks.frPyObjects({"size": [*size], "counts": lengths}, *size))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        counts[DAMAGED] += 1
        return np.zeros(size, bool)


def _decoded(runs: Any) -> Mask:
    return np.asarray(coco_masks.decode(runs), bool)


def _unpacked(text: str) -> list[int]:
    """Run lengths of a compressed text.

    Source: `rleFrString` of cocoapi's maskApi.c: 5 bits a character, differences to the last but
    one from the fourth on.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    return lengths


def _points(part: Any) -> list[float] | None:
    """The coordinates of a polygon; None if it is not a polygon."""
    try:
        points = np.asarray(part, np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        return None
    if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        return None
    if np.abs(points).max() > 1e6:
        return None
    coordinates: list[float] = points.tolist()
    return coordinates
