"""How the segments of a prediction lie over those of the ground truth: all that PQ and AP ask for.

The table of one image is a few hundred bytes, so those of a whole data set can be kept, sent
between processes and written to a file.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.panoptic_map import PanopticSegments, runs


class SegmentOverlap(NamedTuple):
    """Pixels that each pair of segments shares, in one image.

    Attributes:
        pixels: int64 ``[T + 1, P + 1]``; row and column 0 are void, then the T segments of the
            ground truth and the P of the prediction, in the order of their tables.
        target_class: int64 ``[T]``, class ids.
        target_is_crowd: bool ``[T]``.
        predicted_class: int64 ``[P]``, class ids.
    """

    pixels: NDArray[np.int64]
    target_class: NDArray[np.int64]
    target_is_crowd: NDArray[np.bool_]
    predicted_class: NDArray[np.int64]

    @property
    def target_area(self) -> NDArray[np.int64]:
        """Pixels of each segment of the ground truth, int64 ``[T]``."""
        return np.asarray(self.pixels[1:].sum(1))

    @property
    def predicted_area(self) -> NDArray[np.int64]:
        """Pixels of each segment of the prediction, int64 ``[P]``."""
        return np.asarray(self.pixels[:, 1:].sum(0))


def segment_overlap(prediction: PanopticSegments, target: PanopticSegments) -> SegmentOverlap:
    """Counts the pixels that segments share.

    Args:
        prediction: segments of a prediction.
        target: ground truth of the same size, in the order of the file.

    Raises:
        ValueError: the maps differ in size.
    """
    rows, columns = len(target.class_ids) + 1, len(prediction.class_ids) + 1
    pixels = shared_pixels(target.id_map, prediction.id_map, rows, columns)
    return SegmentOverlap(pixels, target.class_ids, target.is_crowd, prediction.class_ids)


def shared_pixels(
    target: NDArray[np.integer], prediction: NDArray[np.integer], rows: int, columns: int
) -> NDArray[np.int64]:
    """Pixels of each pair of values, int64 ``[rows, columns]``.

    Args:
        target: ``[H, W]``, values below `rows`.
        prediction: ``[H, W]``, values below `columns`.
        rows: of the table.
        columns: of the table.

    Raises:
        ValueError: the maps differ in size.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the ground truth {target.shape}")
    # The values are dense, so one bincount of pair codes gives all; nothing needs sorting.
    starts, lengths = runs(prediction, target)
    codes = target.ravel()[starts] * np.intp(columns) + prediction.ravel()[starts]
    counts = np.bincount(codes, lengths, rows * columns)
    return counts.astype(np.int64).reshape(rows, columns)
