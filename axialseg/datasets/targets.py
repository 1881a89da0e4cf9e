"""What the Panoptic-DeepLab losses compare with: classes, instance centres and offsets.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.1-3.2; checked against deeplab2
data/preprocessing and data/dataset_utils (`PanopticTargetGenerator`). Difference: none known.

The loop over instances touches one small window each; everything of image size is a table look-up
or a `bincount` over the map of segment numbers.
"""

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments


class PanopticDeepLabTargets:
    """Semantic map, centre heat-map, offsets and their weights for one (cropped) segmentation.

    An *instance* is a thing segment that is no crowd and has at least one pixel in the map. Its
    centre is the mean of its pixel coordinates inside the map, rounded half to even.
    """

    def __init__(
        self,
        sigma: float = 8.0,
        small_instance_area: int = 4096,
        small_instance_weight: float = 1.0,
        crowd_is_void: bool = True,
    ) -> None:
        """Keeps the settings and draws the Gaussian once.

        Args:
            sigma: standard deviation of the centre Gaussians, in pixels; each is cut to a square
                of 6 sigma + 3 pixels a side.
            small_instance_area: instances with fewer pixels than this in the map count as small.
            small_instance_weight: semantic weight of small instances' pixels; 1 is no difference.
            crowd_is_void: True leaves crowd regions out of the semantic loss, as the official
                COCO recipe does; False keeps their class. The instance losses never see crowds.
        """
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight
        self.crowd_is_void = crowd_is_void
        self.radius = int(3 * sigma + 1)
        axis = np.arange(-self.radius, self.radius + 1, dtype=np.float64)
        squared = axis[:, None] ** 2 + axis[None, :] ** 2
        self.gaussian = np.exp(-squared / (2 * sigma**2)).astype(np.float32)

    def __call__(
        self, segments: PanopticSegments, categories: Categories
    ) -> dict[str, NDArray[np.int32] | NDArray[np.float32]]:
        """Targets of one map.

        Args:
            segments: ground truth, `id_map` int32 ``[H, W]``; padding is void.
            categories: the classes that `segments` speaks of.

        Returns:
            `semantic` int32 ``[H, W]``, class ids, `ignore_class` where nothing is to be learnt;
            `semantic_weight` float32 ``[H, W]``;
            `center` float32 ``[H, W]``, 0..1, 1 at centres;
            `center_weight` float32 ``[H, W]``, 0 at void and crowds, else 1;
            `offset` float32 ``[2, H, W]``, (dy, dx) in pixels from here to the instance's centre,
            0 outside instances; `offset_weight` float32 ``[H, W]``, 1 at instances, else 0.
        """
        id_map = segments.id_map
        height, width = id_map.shape
        # Row 0 of every table is void, row k is segment k.
        count = len(segments.class_ids) + 1
        is_crowd = np.concatenate(([False], segments.is_crowd))
        class_ids = np.concatenate(([categories.ignore_class], segments.class_ids)).astype(np.int32)
        is_instance = categories.is_thing_table[class_ids] & ~is_crowd
        is_instance[0] = False

        rows = np.arange(height, dtype=np.int32)[:, None]
        columns = np.arange(width, dtype=np.int32)
        per_row = _histogram(rows * count + id_map, height, count)
        per_column = _histogram(columns * count + id_map, width, count)
        area = per_row.sum(0)
        is_instance &= area > 0
        pixels = np.maximum(area, 1)
        center_y = np.rint(rows[:, 0] @ per_row / pixels).astype(np.int64)
        center_x = np.rint(columns @ per_column / pixels).astype(np.int64)

        semantic_table = class_ids.copy()
        if self.crowd_is_void:
            semantic_table[is_crowd] = categories.ignore_class
        weight_table = np.ones(count, np.float32)
        weight_table[is_instance & (area < self.small_instance_area)] = self.small_instance_weight
        center_weight_table = (~is_crowd).astype(np.float32)
        center_weight_table[0] = 0

        offset_weight = is_instance.astype(np.float32)[id_map]
        offset = np.empty((2, height, width), np.float32)
        np.subtract(center_y.astype(np.float32)[id_map], rows.astype(np.float32), out=offset[0])
        np.subtract(center_x.astype(np.float32)[id_map], columns.astype(np.float32), out=offset[1])
        offset *= offset_weight
        return {
            "semantic": semantic_table[id_map],
            "semantic_weight": weight_table[id_map],
            "center": self._heat_map(center_y[is_instance], center_x[is_instance], height, width),
            "center_weight": center_weight_table[id_map],
            "offset": offset,
            "offset_weight": offset_weight,
        }

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


def _histogram(keys: NDArray[np.int32], lines: int, count: int) -> NDArray[np.int64]:
    """Pixels of each id on each line, int64 ``[lines, count]``, from keys line * count + id."""
    return np.bincount(keys.ravel(), minlength=lines * count).reshape(lines, count)
