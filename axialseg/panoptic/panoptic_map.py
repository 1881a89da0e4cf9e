"""What a panoptic segmentation is, for ground truth and predictions alike.

Two representations, both of one image:

* a *panoptic map*, int32 ``[H, W]``. A value is ``class_id * CLASS_DIVISOR + instance``, where
  instance is 1 or more for things and 0 for stuff. Void is ``ignore_class * CLASS_DIVISOR``. Models
  predict these.
* `PanopticSegments`, a map of segment numbers plus a table in a fixed order. It can say what a
  panoptic map cannot: crowd regions and several segments of one stuff class. Ground truth,
  official files and the metrics use these.
"""

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


def row_runs(id_map: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As `runs`, for one map ``[H, W]``, but the runs are cut at the ends of the rows."""
    is_start = _changes(id_map)
    is_start[:: id_map.shape[1]] = True
    return _runs_from(is_start)


def _changes(*maps: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels before which a map has another value, and the first one; bool, flat."""
    is_start = np.zeros(maps[0].size, bool)
    is_start[:1] = True
    for one_map in maps:
        flat = one_map.ravel()
        is_start[1:] |= flat[1:] != flat[:-1]
    return is_start


def _runs_from(is_start: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    starts = np.flatnonzero(is_start)
    return starts, np.diff(starts, append=is_start.size)


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
