"""Panoptic quality (PQ), counted exactly as the official COCO scorer counts it.

Source: Kirillov et al. 2019, "Panoptic Segmentation", sec. 4; the rules that the paper leaves open
follow `evaluation.py` of cocodataset/panopticapi (Cityscapes scores alike):

* a pair of one class matches if IoU > 0.5; the union leaves out what the prediction has on
  ground-truth void, but keeps what the ground truth has on predicted void;
* crowds are never matched and never false negatives;
* an unmatched prediction is no false positive if more than half of it lies on void and on the crowd
  of its class. If the ground truth lists several crowds of that class, only the last one counts.

Differences: ground-truth areas are counted from the map, the official scorer believes the JSON;
a group in which no class occurs has n = 0 and no quality, the official scorer divides by zero.

Boundary PQ (Cheng et al. 2021, "Boundary IoU", sec. 5) is the same with the smaller one of a
pair's IoU and its boundary IoU; see `boundary.py`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from axialseg.metrics.segment_overlap import SegmentOverlap
from axialseg.panoptic.categories import Categories

# Small segments have fewer pixels than the first, large ones no fewer than the second (COCO's).
SIZE_LIMITS = (32**2, 96**2)
SIZES = ("small", "medium", "large")


class ClassQuality(NamedTuple):
    """Counts and quality of one class over all images; qualities are fractions, 0 if unseen."""

    class_id: int
    name: str
    is_thing: bool
    iou: float
    """Sum of the IoU of all matches."""
    tp: int
    fp: int
    fn: int
    pq: float
    sq: float
    rq: float


class GroupQuality(NamedTuple):
    """Plain averages over the `n` classes of a group that have TP + FP + FN > 0; all 0 if n = 0."""

    pq: float
    sq: float
    rq: float
    n: int


class PanopticQualityResult(NamedTuple):
    """PQ, SQ and RQ as fractions 0..1, averaged by group and for each class."""

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    per_class: tuple[ClassQuality, ...]
    by_size: tuple[GroupQuality, ...]
    """Of small, medium and large segments alone, see `SIZE_LIMITS`. A match and a missed segment
    count by the pixels of the ground truth, a false one by its own; so the counts add up."""


class SegmentMatches(NamedTuple):
    """How the segments of one image pair up; numbers are rows of the two segment tables.

    Attributes:
        prediction: int64 ``[M]``, rows of the matched predictions.
        target: int64 ``[M]``, rows of the ground truth they match.
        iou: float64 ``[M]``, IoU of the pairs, each > 0.5.
        missed: int64, rows of the ground truth that are false negatives.
        false: int64, rows of the prediction that are false positives.
    """

    prediction: NDArray[np.int64]
    target: NDArray[np.int64]
    iou: NDArray[np.float64]
    missed: NDArray[np.int64]
    false: NDArray[np.int64]


def match_segments(
    overlap: SegmentOverlap, boundary: NDArray[np.int64] | None = None
) -> SegmentMatches:
    """Matches the predicted segments of one image with its ground truth.

    A row of the ground truth without pixels counts as missed, as in the official scorer.

    Args:
        overlap: of the two; every predicted row has pixels.
        boundary: pixels that their boundaries share, see `boundary.boundary_overlap`, for
            boundary PQ.

    Raises:
        ValueError: a predicted row has no pixel.
    """
    predicted_area, target_area = overlap.predicted_area, overlap.target_area
    if not predicted_area.all():
        raise ValueError(f"predicted segment {int(predicted_area.argmin()) + 1} has no pixel")
    on_void = overlap.pixels[0, 1:]
    shared = overlap.pixels[1:, 1:]
    union = target_area[:, None] + (predicted_area - on_void) - shared
    is_pair = (overlap.target_class[:, None] == overlap.predicted_class) & (shared > 0)
    is_pair &= ~overlap.target_is_crowd[:, None]
    iou = shared / np.maximum(union, 1)
    if boundary is not None:
        iou = np.minimum(iou, _boundary_iou(boundary))
    is_match = is_pair & (iou > 0.5)
    target_rows, predicted_rows = np.nonzero(is_match)

    excused = on_void.copy()
    crowds = np.flatnonzero(overlap.target_is_crowd)
    crowd_of_class = {overlap.target_class[row]: row for row in crowds}
    for class_id, row in crowd_of_class.items():
        excused += shared[row] * (overlap.predicted_class == class_id)
    return SegmentMatches(
        predicted_rows,
        target_rows,
        iou[is_match],
        np.flatnonzero(~overlap.target_is_crowd & ~is_match.any(1)),
        np.flatnonzero(~is_match.any(0) & (2 * excused <= predicted_area)),
    )


def _boundary_iou(boundary: NDArray[np.int64]) -> NDArray[np.float64]:
    """Boundary IoU of all pairs ``[T, P]``; `boundary` is ``[T + 2, P + 2]``."""
    shared = boundary[1:-1, 1:-1]
    target_area, predicted_area = boundary[1:-1].sum(1), boundary[:, 1:-1].sum(0)
    union = target_area[:, None] + predicted_area - boundary[0, 1:-1] - shared
    return np.asarray(shared / np.maximum(union, 1))


class PanopticQuality(Metric):
    """PQ of a data set, one image per `update`, at the ground truth's own resolution.

        metric.update(segment_overlap(prediction, target))

    Args:
        categories: the classes that are scored.
        sync_on_compute: sum up over the processes, if there are several.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    iou: Tensor  # float64 [classes], sum of the matches' IoU; the counts below are int64 [classes]
    tp: Tensor
    fp: Tensor
    fn: Tensor
    sized: Tensor  # float64 [sizes, 4, classes], iou, tp, fp and fn of segments of each size

    def __init__(self, categories: Categories, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.categories = categories
        count = len(categories)
        self.add_state("iou", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tp", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("fp", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("fn", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        sized = torch.zeros((len(SIZES), 4, count), dtype=torch.float64)
        self.add_state("sized", sized, dist_reduce_fx="sum")

    def update(self, overlap: SegmentOverlap, boundary: NDArray[np.int64] | None = None) -> None:
        """Adds one image; the arguments are those of `match_segments`.

        Raises:
            ValueError: see `match_segments`, or a class id that `categories` does not list.
        """
        predicted_class = self.categories.positions(overlap.predicted_class)
        target_class = self.categories.positions(overlap.target_class)
        matches = match_segments(overlap, boundary)
        target_size = np.searchsorted(SIZE_LIMITS, overlap.target_area, side="right")
        false_size = np.searchsorted(
            SIZE_LIMITS, overlap.predicted_area[matches.false], side="right"
        )
        count = len(self.categories)
        places = target_size * count + target_class
        false_places = false_size * count + predicted_class[matches.false]
        length = len(SIZES) * count
        iou = np.bincount(places[matches.target], matches.iou, length)
        tp = np.bincount(places[matches.target], minlength=length)
        fp = np.bincount(false_places, minlength=length)
        fn = np.bincount(places[matches.missed], minlength=length)
        sized = np.stack((iou, tp, fp, fn)).reshape(4, len(SIZES), count)
        self.sized.add_(torch.from_numpy(sized.swapaxes(0, 1)).to(self.device))
        # Summed in the order of the segments, as ever, and not by size first.
        iou = np.bincount(target_class[matches.target], matches.iou, count)
        self.iou.add_(torch.from_numpy(iou).to(self.device))
        for total, counts in ((self.tp, tp), (self.fp, fp), (self.fn, fn)):
            total += torch.from_numpy(counts.reshape(len(SIZES), count).sum(0)).to(self.device)

    def compute(self) -> PanopticQualityResult:
        """Qualities over all images so far (of all processes, if there are several)."""
        per_class = self._per_class((self.iou, self.tp, self.fp, self.fn))
        return PanopticQualityResult(
            _average(per_class),
            _average(tuple(row for row in per_class if row.is_thing)),
            _average(tuple(row for row in per_class if not row.is_thing)),
            per_class,
            tuple(_average(self._per_class(counts)) for counts in self.sized),
        )

    def _per_class(self, counts: Iterable[Tensor]) -> tuple[ClassQuality, ...]:
        """Qualities from the sums of IoU, the matches, the false and the missed ``[classes]``."""
        return tuple(
            _class_quality(category.class_id, category.name, category.is_thing, *values)
            for category, *values in zip(
                self.categories.classes, *(count.tolist() for count in counts), strict=True
            )
        )


def _class_quality(
    class_id: int, name: str, is_thing: bool, iou: float, tp: int, fp: int, fn: int
) -> ClassQuality:
    denominator = tp + 0.5 * fp + 0.5 * fn
    pq, rq = (iou / denominator, tp / denominator) if denominator else (0.0, 0.0)
    return ClassQuality(class_id, name, is_thing, iou, tp, fp, fn, pq, iou / tp if tp else 0.0, rq)


def _average(rows: tuple[ClassQuality, ...]) -> GroupQuality:
    seen = [row for row in rows if row.tp + row.fp + row.fn > 0]
    n = len(seen)
    if n == 0:
        return GroupQuality(0.0, 0.0, 0.0, 0)
    return GroupQuality(
        sum(row.pq for row in seen) / n,
        sum(row.sq for row in seen) / n,
        sum(row.rq for row in seen) / n,
        n,
    )
