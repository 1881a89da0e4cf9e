"""What a panoptic segmentation is, for ground truth and predictions alike.

Three representations, all of one image:

* a *panoptic map*, int32 ``[H, W]``. A value is ``class_id * CLASS_DIVISOR + instance``, where
  instance is 1 or more for things and 0 for stuff. Void is ``ignore_class * CLASS_DIVISOR``. Models
  predict these.
* `PanopticSegments`, a map of segment numbers plus a table in a fixed order. It can say what a
  panoptic map cannot: crowd regions and several segments of one stuff class. Ground truth,
  official files and the metrics use these.
* `SegmentRuns`, the same as runs of pixels. Files are read and compared as these, because there are
  a hundred times fewer runs than pixels.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASS_DIVISOR = 65536


class PanopticSegments(NamedTuple):
    """A segmentation with its segment table.

    Attributes:
        id_map: int32 ``[H, W]``; 0 is void, value k is row k - 1 of the table.
        class_ids: int64 ``[S]``, contiguous class id of each segment, in the order of the file.
        is_crowd: bool ``[S]``, True for a region that covers many instances.
    """

    id_map: NDArray[np.int32]
    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each segment, int64 ``[S]``, counted from the map."""
        return np.bincount(self.id_map.ravel(), minlength=len(self.class_ids) + 1)[1:]

    def semantic_map(self, ignore_class: int) -> NDArray[np.int32]:
        """Class of each pixel, int32 ``[H, W]``; void is `ignore_class`, crowds are their class."""
        table = np.concatenate(([ignore_class], self.class_ids)).astype(np.int32)
        return table[self.id_map]

    def to_runs(self) -> "SegmentRuns":
        """The same as runs."""
        starts = run_starts(self.id_map)
        height, width = self.id_map.shape
        numbers = self.id_map.ravel()[starts]
        return SegmentRuns((height, width), starts, numbers, self.class_ids, self.is_crowd)


class SegmentRuns(NamedTuple):
    """A segmentation as runs of pixels, row after row, with its segment table.

    Attributes:
        size: (height, width) of the image.
        starts: intp ``[R]``, flat position of the first pixel of each run, ascending from 0.
        numbers: int32 ``[R]``; 0 is void, value k is row k - 1 of the table. Runs of one number
            may follow each other.
        class_ids: see `PanopticSegments`.
        is_crowd: see `PanopticSegments`.
    """

    size: tuple[int, int]
    starts: NDArray[np.intp]
    numbers: NDArray[np.int32]
    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]

    def paint(self) -> PanopticSegments:
        """The same with a map."""
        lengths = run_lengths(self.starts, math.prod(self.size))
        id_map = np.repeat(self.numbers, lengths).reshape(self.size)
        return PanopticSegments(id_map, self.class_ids, self.is_crowd)


def runs(*maps: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Runs of pixels, row after row, over which no map changes its value.

    Segments are blobs, so that sorting, counting or looking up runs is several times faster than
    doing it with pixels. `np.repeat` makes a map of the values of its runs, which is fast.

    Args:
        maps: of one shape ``[H, W]``.

    Returns:
        Flat position of the first pixel of each run, and number of its pixels; both ``[R]``.
    """
    return _runs_from(_changes(*maps))


def run_starts(*maps: NDArray[np.integer]) -> NDArray[np.intp]:
    """The first of what `runs` returns."""
    return np.flatnonzero(_changes(*maps))


def run_lengths(starts: NDArray[np.intp], pixels: int) -> NDArray[np.intp]:
    """Number of pixels of each run ``[R]`` of an image of so many pixels."""
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = pixels - starts[-1:]
    return lengths


def row_runs(id_map: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As `runs`, for one map ``[H, W]``, but the runs are cut at the ends of the rows."""
    is_start = _changes(id_map)
    is_start[:: id_map.shape[1]] = True
    return _runs_from(is_start)


def _changes(*maps: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels before which a map has another value, and the first one; bool, flat."""
    is_start = np.empty(maps[0].size, bool)
    is_start[:1] = True
    for number, one_map in enumerate(maps):
        flat = one_map.ravel()
        if number == 0:
            np.not_equal(flat[1:], flat[:-1], out=is_start[1:])
        else:
            is_start[1:] |= flat[1:] != flat[:-1]
    return is_start


def _runs_from(is_start: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    starts = np.flatnonzero(is_start)
    return starts, run_lengths(starts, is_start.size)


def segments_from_panoptic_map(
    panoptic_map: NDArray[np.integer], ignore_class: int
) -> PanopticSegments:
    """The segments of a panoptic map ``[H, W]``, ascending in their values; none is a crowd."""
    starts, lengths = runs(panoptic_map)
    values, value_of_run = np.unique(panoptic_map.ravel()[starts], return_inverse=True)
    is_void = values // CLASS_DIVISOR == ignore_class
    numbers = np.cumsum(~is_void).astype(np.int32)
    numbers[is_void] = 0
    id_map = np.repeat(numbers[value_of_run], lengths).reshape(panoptic_map.shape)
    class_ids = (values[~is_void] // CLASS_DIVISOR).astype(np.int64)
    return PanopticSegments(id_map, class_ids, np.zeros(len(class_ids), bool))
