"""Panoptic quality (PQ), counted exactly as the official COCO scorer counts it.

Source: Kirillov et al. 2019, "Panoptic Segmentation", sec. 4; the rules that the paper leaves open
follow `evaluation.py` of cocodataset/panopticapi (Cityscapes scores alike):

* a pair of one class matches if IoU > 0.5; the union leaves out what the prediction has on
  ground-truth void, but keeps what the ground truth has on predicted void;
* crowds are never matched and never false negatives;
* an unmatched prediction is no false positive if more than half of it lies on void and on the crowd
  of its class. If the ground truth lists several crowds of that class, only the last one counts.

Differences: ground-truth areas are counted from the map, the official scorer believes the JSON;
a group in which no class occurs scores 0 with n = 0, the official scorer divides by zero.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, runs


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


def match_segments(prediction: PanopticSegments, target: PanopticSegments) -> SegmentMatches:
    """Matches the predicted segments of one image with its ground truth.

    A row of the ground truth without pixels counts as missed, as in the official scorer.

    Args:
        prediction: segments of a prediction; every row has pixels, `is_crowd` is not looked at.
        target: ground truth of the same size, in the order of the file.

    Raises:
        ValueError: the maps differ in size, or a predicted row has no pixel.
    """
    if prediction.id_map.shape != target.id_map.shape:
        raise ValueError(
            f"the prediction is {prediction.id_map.shape}, the ground truth {target.id_map.shape}"
        )
    # Ids are dense, so one bincount of pair codes gives all overlaps; nothing needs sorting.
    columns = len(prediction.class_ids) + 1
    shape = (len(target.class_ids) + 1, columns)
    starts, lengths = runs(prediction.id_map, target.id_map)
    codes = target.id_map.ravel()[starts] * np.intp(columns) + prediction.id_map.ravel()[starts]
    overlap = np.bincount(codes, lengths, shape[0] * columns).astype(np.int64).reshape(shape)

    predicted_area = overlap[:, 1:].sum(0)
    if not predicted_area.all():
        raise ValueError(f"predicted segment {int(predicted_area.argmin()) + 1} has no pixel")
    target_area = overlap[1:].sum(1)
    on_void = overlap[0, 1:]
    overlap = overlap[1:, 1:]
    union = target_area[:, None] + (predicted_area - on_void) - overlap
    same_class = target.class_ids[:, None] == prediction.class_ids
    is_match = same_class & ~target.is_crowd[:, None] & (2 * overlap > union)
    target_rows, predicted_rows = np.nonzero(is_match)

    excused = on_void.copy()
    crowd_of_class = {target.class_ids[row]: row for row in np.flatnonzero(target.is_crowd)}
    for class_id, row in crowd_of_class.items():
        excused += overlap[row] * (prediction.class_ids == class_id)
    return SegmentMatches(
        predicted_rows,
        target_rows,
        overlap[is_match] / union[is_match],
        np.flatnonzero(~target.is_crowd & ~is_match.any(1)),
        np.flatnonzero(~is_match.any(0) & (2 * excused <= predicted_area)),
    )


class PanopticQuality(Metric):
    """PQ of a data set, one image per `update`, at the ground truth's own resolution.

    Args:
        categories: the classes that are scored.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    iou: Tensor  # float64 [classes], sum of the matches' IoU; the counts below are int64 [classes]
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def __init__(self, categories: Categories) -> None:
        super().__init__()
        self.categories = categories
        count = len(categories)
        self.add_state("iou", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tp", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("fp", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("fn", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: PanopticSegments, target: PanopticSegments) -> None:
        """Adds one image.

        Raises:
            ValueError: see `match_segments`, or a class id that `categories` does not list.
        """
        predicted_class = self._positions(prediction.class_ids)
        target_class = self._positions(target.class_ids)
        matches = match_segments(prediction, target)
        count = len(self.categories)
        matched_class = target_class[matches.target]
        iou = np.bincount(matched_class, matches.iou, count)
        tp = np.bincount(matched_class, minlength=count)
        fp = np.bincount(predicted_class[matches.false], minlength=count)
        fn = np.bincount(target_class[matches.missed], minlength=count)
        self.iou += torch.from_numpy(iou).to(self.device)
        self.tp += torch.from_numpy(tp).to(self.device)
        self.fp += torch.from_numpy(fp).to(self.device)
        self.fn += torch.from_numpy(fn).to(self.device)

    def compute(self) -> PanopticQualityResult:
        """Qualities over all images so far (of all processes, if there are several)."""
        per_class = tuple(
            _class_quality(category.class_id, category.name, category.is_thing, *counts)
            for category, *counts in zip(
                self.categories.classes,
                self.iou.tolist(),
                self.tp.tolist(),
                self.fp.tolist(),
                self.fn.tolist(),
                strict=True,
            )
        )
        return PanopticQualityResult(
            _average(per_class),
            _average(tuple(row for row in per_class if row.is_thing)),
            _average(tuple(row for row in per_class if not row.is_thing)),
            per_class,
        )

    def _positions(self, class_ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Positions ``[S]`` of class ids in `categories.classes`."""
        known = np.asarray(self.categories.class_ids)
        positions = np.searchsorted(known, class_ids)
        wrong = known[np.minimum(positions, len(known) - 1)] != class_ids
        if wrong.any():
            raise ValueError(f"class id {class_ids[wrong][0]} is none of the data set's classes")
        return positions


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
