"""How the segments of a prediction lie over those of the ground truth: all that PQ and AP ask for.

The table of one image is a few hundred bytes, so those of a whole data set can be kept, sent
between processes and written to a file.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.panoptic_map import PanopticSegments, SegmentRuns, run_lengths, runs


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


def run_overlap(prediction: SegmentRuns, target: SegmentRuns) -> SegmentOverlap:
    """The same of runs, which is faster by the number of pixels in a run.

    Args:
        prediction: segments of a prediction.
        target: ground truth of the same size, in the order of the file.

    Raises:
        ValueError: the two differ in size.
    """
    _check_sizes(prediction.size, target.size)
    rows, columns = len(target.class_ids) + 1, len(prediction.class_ids) + 1
    # Where a run starts, the code of the pair (target, prediction) changes by a step. Two runs that
    # start together leave a code of no pixel between their steps.
    steps = [_steps(target.numbers) * columns, _steps(prediction.numbers)]
    starts = np.concatenate((target.starts, prediction.starts))
    order = np.argsort(starts, kind="stable")  # merges the two
    codes = np.cumsum(np.concatenate(steps)[order])
    pixels = _count(codes, run_lengths(starts[order], math.prod(target.size)), rows, columns)
    return SegmentOverlap(pixels, target.class_ids, target.is_crowd, prediction.class_ids)


def _steps(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    """Difference of each number ``[R]`` from the one before; from 0 of the first."""
    wide = numbers.astype(np.intp)
    wide[1:] -= numbers[:-1]
    return wide


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
    _check_sizes(prediction.shape, target.shape)
    starts, lengths = runs(prediction, target)
    codes = target.ravel()[starts] * np.intp(columns) + prediction.ravel()[starts]
    return _count(codes, lengths, rows, columns)


def _count(
    codes: NDArray[np.intp], lengths: NDArray[np.intp], rows: int, columns: int
) -> NDArray[np.int64]:
    """The values are dense, so one bincount of pair codes gives all; nothing needs sorting."""
    counts = np.bincount(codes, lengths, rows * columns)
    return counts.astype(np.int64).reshape(rows, columns)


def _check_sizes(prediction: tuple[int, ...], target: tuple[int, ...]) -> None:
    if prediction != target:
        raise ValueError(f"the prediction is {prediction}, the ground truth {target}")
