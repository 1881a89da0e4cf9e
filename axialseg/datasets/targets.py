"""What the losses compare with: classes, and of the instances centres and offsets, or masks.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.1-3.2; Wang et al. 2021, "MaX-DeepLab",
sec. 3.2; checked against deeplab2 data/sample_generator.py and data/dataset_utils.py. Difference:
more things than MaX-DeepLab has slots are no error.

An *instance* is a thing segment that is no crowd and has at least one pixel in the map. The loop
over instances touches one small window each; everything else is computed per run of pixels of one
segment in a row, and painted at last.

Every map has the smallest type that holds its values exactly: what loader processes hand over is
written into fresh pages of shared memory, and the kernel clears each of them first.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, row_runs

Value = TypeVar("Value", bound=np.generic)
Maps = dict[str, NDArray[Any]]


class PanopticDeepLabTargets:
    """Semantic map, centre heat-map, offsets and their weights for one (cropped) segmentation.

    The centre of an instance is the mean of its pixel coordinates inside the map, rounded half to
    even.
    """

    def __init__(
        self,
        sigma: float = 8.0,
        small_instance_area: int = 4096,
        small_instance_weight: float = 1.0,
    ) -> None:
        """Keeps the settings and draws the Gaussian once.

        Args:
            sigma: standard deviation of the centre Gaussians, in pixels; each is cut to a square
                of 6 sigma + 3 pixels a side.
            small_instance_area: instances with fewer pixels than this in the map count as small.
            small_instance_weight: semantic weight of small instances' pixels; 1 is no difference.
        """
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight
        self.radius = int(3 * sigma + 1)
        axis = np.arange(-self.radius, self.radius + 1, dtype=np.float64)
        squared = axis[:, None] ** 2 + axis[None, :] ** 2
        self.gaussian = np.exp(-squared / (2 * sigma**2)).astype(np.float32)

    def __call__(self, segments: PanopticSegments, categories: Categories) -> Maps:
        """Targets of one map.

        Args:
            segments: ground truth, `id_map` int32 ``[H, W]``; padding is void.
            categories: the classes that `segments` speaks of.

        Returns:
            `semantic` uint8 (int32 if class ids go beyond 255) ``[H, W]``, class ids,
            `ignore_class` where nothing is to be learnt;
            `semantic_pixel_weights` float32 ``[H, W]``;
            `center` float32 ``[H, W]``, 0..1, 1 at centres;
            `center_pixel_weights` bool ``[H, W]``, False at void and crowds;
            `offset` int16 ``[2, H, W]``, (dy, dx) in pixels from here to the instance's centre,
            0 outside instances; `offset_pixel_weights` bool ``[H, W]``, True at instances.
        """
        height, width = segments.id_map.shape
        # Row 0 of every table is void, row k is segment k.
        tables = _SegmentTables(segments, categories)
        runs = _Runs(segments.id_map)
        area = runs.sums(runs.lengths, tables.count)
        is_instance = tables.is_countable & (area > 0)
        pixels = np.maximum(area, 1)
        center_y = np.rint(runs.sums(runs.rows * runs.lengths, tables.count) / pixels)
        # A run from column c on, n long: c + (c + 1) + ... + (c + n - 1).
        columns = runs.columns * runs.lengths + runs.lengths * (runs.lengths - 1) // 2
        center_x = np.rint(runs.sums(columns, tables.count) / pixels)

        is_small = is_instance & (area < self.small_instance_area)
        center_pixel_weights = ~tables.is_crowd
        center_pixel_weights[0] = False
        offset_pixel_weights = runs.painted(is_instance[runs.ids])
        offset = np.empty((2, height, width), np.int16)
        to_center = (center_y[runs.ids] - runs.rows) * is_instance[runs.ids]
        offset[0] = runs.painted(to_center.astype(np.int16))
        places = runs.painted(center_x.astype(np.int16)[runs.ids])
        np.subtract(places, np.arange(width, dtype=np.int16), out=offset[1])
        offset[1] *= offset_pixel_weights
        y, x = (center[is_instance].astype(np.int64) for center in (center_y, center_x))
        return {
            "semantic": runs.painted(tables.semantic()[runs.ids]),
            "semantic_pixel_weights": runs.painted(self._weights(is_small)[runs.ids]),
            "center": self._heat_map(y, x, height, width),
            "center_pixel_weights": runs.painted(center_pixel_weights[runs.ids]),
            "offset": offset,
            "offset_pixel_weights": offset_pixel_weights,
        }

    def _weights(self, is_small: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Semantic weight of each segment, float32 ``[S + 1]``."""
        return np.where(is_small, self.small_instance_weight, 1).astype(np.float32)

    def _heat_map(
        self, center_y: NDArray[np.int64], center_x: NDArray[np.int64], height: int, width: int
    ) -> NDArray[np.float32]:
        """Maximum of one windowed Gaussian per centre, float32 ``[H, W]``."""
        radius = self.radius
        heat_map = np.zeros((height, width), np.float32)
        for y, x in zip(center_y.tolist(), center_x.tolist(), strict=True):
            top, bottom = max(y - radius, 0), min(y + radius + 1, height)
            left, right = max(x - radius, 0), min(x + radius + 1, width)
            window = heat_map[top:bottom, left:right]
            np.maximum(
                window,
                self.gaussian[
                    top - y + radius : bottom - y + radius, left - x + radius : right - x + radius
                ],
                out=window,
            )
        return heat_map


class MaxDeepLabTargets:
    """Masks and classes of the things, and the semantic map that also holds the stuff's masks."""

    def __init__(
        self,
        slots: int = 128,
        small_instance_area: int = 4096,
        small_instance_weight: float = 1.0,
    ) -> None:
        """Keeps the settings.

        Args:
            slots: most things that the model can tell apart. Of more than that in a map the
                smallest are void, so that no loss asks for them.
            small_instance_area: instances with fewer pixels than this in the map count as small.
            small_instance_weight: semantic weight of small instances' pixels; 1 is no difference.
        """
        self.slots = slots
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight

    def __call__(self, segments: PanopticSegments, categories: Categories) -> Maps:
        """Targets of one map.

        Args:
            segments: ground truth, `id_map` int32 ``[H, W]``; padding is void.
            categories: the classes that `segments` speaks of.

        Returns:
            `semantic` uint8 (int32 if class ids go beyond 255) ``[H, W]``, class ids,
            `ignore_class` where nothing is to be learnt;
            `semantic_pixel_weights` float32 ``[H, W]``;
            `thing_id_mask` int16 ``[H, W]``, number of the instance, from 0 in the order in which
            they appear row by row, -1 elsewhere;
            `thing_id_class` int32 ``[slots]``, class id of each instance, -1 past the last.
        """
        tables = _SegmentTables(segments, categories)
        runs = _Runs(segments.id_map)
        area = runs.sums(runs.lengths, tables.count)
        seen = np.flatnonzero(tables.is_countable & (area > 0))
        dropped = seen[np.argsort(-area[seen], kind="stable")[self.slots :]]
        present, first_runs = np.unique(runs.ids, return_index=True)
        things = present[np.argsort(first_runs)]
        things = things[tables.is_countable[things] & ~np.isin(things, dropped)]

        numbers = np.full(tables.count, -1, np.int16)
        numbers[things] = np.arange(len(things), dtype=np.int16)
        thing_id_class = np.full(self.slots, -1, np.int32)
        thing_id_class[: len(things)] = tables.class_ids[things]
        semantic = tables.semantic()
        semantic[dropped] = categories.ignore_class
        is_small = tables.is_countable & (area < self.small_instance_area)
        weights = np.where(is_small, self.small_instance_weight, 1).astype(np.float32)
        return {
            "semantic": runs.painted(semantic[runs.ids]),
            "semantic_pixel_weights": runs.painted(weights[runs.ids]),
            "thing_id_mask": runs.painted(numbers[runs.ids]),
            "thing_id_class": thing_id_class,
        }


class _Runs:
    """The runs of an `id_map` ``[H, W]``, cut at the ends of its rows; R of them.

    Attributes:
        ids: int32 ``[R]``.
        rows: int64 ``[R]``.
        columns: int64 ``[R]``, of the first pixel.
        lengths: int64 ``[R]``.
    """

    def __init__(self, id_map: NDArray[np.int32]) -> None:
        self.shape = id_map.shape
        starts, self.lengths = row_runs(id_map)
        self.rows, self.columns = np.divmod(starts, id_map.shape[1])
        self.ids = id_map.ravel()[starts]

    def sums(self, values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Sums of a value per run over the runs of each id, int64 ``[count]``; exact to 2^53."""
        return np.bincount(self.ids, values, minlength=count).astype(np.int64)

    def painted(self, values: NDArray[Value]) -> NDArray[Value]:
        """The map ``[H, W]`` in which each run has its value."""
        return np.repeat(values, self.lengths).reshape(self.shape)


class _SegmentTables:
    """What is known of each value of an `id_map`: entry 0 is void, entry k is segment k.

    Attributes:
        count: S + 1.
        class_ids: int32 ``[S + 1]``.
        is_crowd: bool ``[S + 1]``.
        is_countable: bool ``[S + 1]``, things that are no crowd.
    """

    def __init__(self, segments: PanopticSegments, categories: Categories) -> None:
        void = categories.ignore_class
        self.count = len(segments.class_ids) + 1
        self.class_ids = np.concatenate(([void], segments.class_ids)).astype(np.int32)
        self.is_crowd = np.concatenate(([False], segments.is_crowd))
        self.is_countable = categories.is_thing_table[self.class_ids] & ~self.is_crowd
        self.is_countable[0] = False
        self._void = void
        largest = max(categories.semantic_channels - 1, void)
        self._smallest = np.uint8 if largest < 256 else np.int32

    def semantic(self) -> NDArray[Any]:
        """Class to learn, ``[S + 1]``; crowds are void, as in the official COCO recipe."""
        table = self.class_ids.astype(self._smallest)
        table[self.is_crowd] = self._void
        return table
