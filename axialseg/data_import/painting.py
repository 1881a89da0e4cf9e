"""From shapes that may overlap to a panoptic segmentation, by stated rules.

1. Crowds lie lowest, then stuff, then things; among these, smaller shapes lie over larger ones, and
   of two of one size the later one. A pixel belongs to the uppermost shape.
2. A hole of a shape stays a hole: what lies below shows through.
3. All shapes of one stuff class in an image are one segment.
4. A shape without pixels, and one of which nothing stays visible, is left out.
5. What no shape covers is void, or of one stuff class that stands for the rest.

Everything that a rule has decided is counted.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

EMPTY = "shapes without pixels, left out"
HIDDEN = "shapes wholly covered by others, left out"
OVERLAP = "pixels in several shapes, given to the smaller one"
HOLES = "shapes with holes, through which shows what lies below"


class Shape(NamedTuple):
    """An annotated region.

    Attributes:
        mask: bool ``[H, W]``.
        class_id: its class.
        is_crowd: whether it covers many instances.
    """

    mask: NDArray[np.bool_]
    class_id: int
    is_crowd: bool


def paint(
    shapes: Sequence[Shape],
    size: tuple[int, int],
    categories: Categories,
    rest: int | None,
    counts: Counter[str],
) -> PanopticSegments:
    """The segmentation of an image.

    Args:
        shapes: of the image, each of the same size.
        size: (height, width).
        categories: the classes.
        rest: class id of the pixels without a shape; None is void.
        counts: what the rules decide is added to it.
    """
    areas = [int(shape.mask.sum()) for shape in shapes]
    things = [categories.by_class_id[shape.class_id].is_thing for shape in shapes]
    order = sorted(
        (row for row, area in enumerate(areas) if area),
        key=lambda row: (not shapes[row].is_crowd, things[row], -areas[row], row),
    )
    counts[EMPTY] += len(shapes) - len(order)
    upper = np.zeros(size, np.int32)
    covered = np.zeros(size, np.int32)
    for row in order:
        mask = shapes[row].mask
        upper[mask] = row + 1
        covered += mask
        counts[HOLES] += _has_hole(mask)
    counts[OVERLAP] += int((covered > 1).sum())

    visible = np.bincount(upper.ravel(), minlength=len(shapes) + 1) > 0
    counts[HIDDEN] += sum(not visible[row + 1] for row in order)
    numbers = np.zeros(len(shapes) + 1, np.int32)
    table: list[tuple[int, bool]] = []
    stuff: dict[int, int] = {}
    if rest is not None and (upper == 0).any():
        table.append((rest, False))
        numbers[0] = stuff[rest] = 1
    for row, shape in enumerate(shapes):
        if not visible[row + 1]:
            continue
        if things[row]:
            table.append((shape.class_id, shape.is_crowd))
            numbers[row + 1] = len(table)
        else:
            if shape.class_id not in stuff:
                table.append((shape.class_id, False))
                stuff[shape.class_id] = len(table)
            numbers[row + 1] = stuff[shape.class_id]
    return PanopticSegments(
        numbers[upper],
        np.array([class_id for class_id, _ in table], np.int64),
        np.array([is_crowd for _, is_crowd in table], bool),
    )


def _has_hole(mask: NDArray[np.bool_]) -> bool:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    own = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool((ndimage.binary_fill_holes(own) != own).any())
