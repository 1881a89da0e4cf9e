"""Mask AP of the things of a panoptic segmentation, by COCO's rule and by Cityscapes' rule.

Both ask for no more of an image than the pixels that pairs of segments share, because the masks of
a panoptic segmentation are disjoint, in the ground truth and in the prediction alike.

Sources: pycocotools `cocoeval.py`, which does COCO's evaluation here; mcordts/cityscapesScripts
`evalInstanceLevelSemanticLabeling.py`; deeplab2 `evaluation/coco_instance_ap.py`.
"""

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from axialseg.metrics.segment_overlap import SegmentOverlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

CITYSCAPES_MIN_AREA = 100  # pixels of a segment of the ground truth that is asked for
CITYSCAPES_OVERLAPS = np.arange(0.5, 1.0, 0.05)

Rows = defaultdict[tuple[int, int], list[dict[str, Any]]]  # (image, class) -> segments


class ScoredImage(NamedTuple):
    """One image: its overlaps, and the score of each predicted segment, float64 ``[P]``."""

    overlap: SegmentOverlap
    scores: NDArray[np.float64]


class AveragePrecision(NamedTuple):
    """Fractions 0..1; NaN where the ground truth has nothing to find, or the rule has no such part.

    Attributes:
        ap: mean over the IoU thresholds 0.5, 0.55, ..., 0.95.
        ap50: at 0.5.
        ap75: at 0.75.
        small: of things of fewer than 32 x 32 pixels; COCO's rule alone.
        medium: of those up to 96 x 96 pixels.
        large: of the larger ones.
        per_class: `ap` of each thing class, in the order of class ids.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    per_class: tuple[float, ...]


def average_precision(images: Sequence[ScoredImage], categories: Categories) -> AveragePrecision:
    """Mask AP by the rule of the data set: Cityscapes' for its classes, else COCO's.

    Args:
        images: ascending in their ids; the order decides between equal scores.
        categories: the classes.
    """
    if categories == CITYSCAPES:
        return cityscapes_average_precision(images, categories)
    return coco_average_precision(images, categories)


def coco_average_precision(
    images: Sequence[ScoredImage], categories: Categories
) -> AveragePrecision:
    """Mask AP by COCO's rule: at most 100 things of a class in an image; crowds are ignored."""
    if not categories.thing_ids or not images:
        return _precision([math.nan] * 6, [math.nan] * len(categories.thing_ids))
    evaluation = _OverlapEvaluation(images, categories.thing_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # [IoU, recall, class, size]
    overlaps = evaluation.params.iouThrs
    parts = [precision[..., 0], *(precision[overlaps == limit, ..., 0] for limit in (0.5, 0.75))]
    parts += [precision[..., size] for size in (1, 2, 3)]
    per_class = [precision[:, :, k, 0] for k in range(len(categories.thing_ids))]
    return _precision([_mean(p) for p in parts], [_mean(p) for p in per_class])


def _mean(precision: NDArray[np.float64]) -> float:
    """Mean of what there is; -1 stands for nothing to find."""
    values = precision[precision > -1]
    return float(values.mean()) if values.size else math.nan


class _Pair(NamedTuple):
    """The things of one class in one image, the predicted ones in the order of their scores.

    Attributes:
        scores: float64 ``[D]``, descending.
        found_area: float64 ``[D]``.
        true_area: float64 ``[G]``.
        is_crowd: bool ``[G]``.
        partner: int64 ``[D]``, the one of the ground truth that each may match.
        is_match: bool ``[IoU, D]``, whether it does at each IoU.
    """

    scores: NDArray[np.float64]
    found_area: NDArray[np.float64]
    true_area: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    partner: NDArray[np.int64]
    is_match: NDArray[np.bool_]


class _OverlapEvaluation(COCOeval):
    """pycocotools' evaluation, with the IoU taken from the overlaps in place of masks.

    Masks are disjoint, so as a rule a prediction has an IoU of 0.5 with one thing at most, and no
    two with the same thing. Then the search for matches is a comparison, and it is the same for all
    sizes of things. The other cases (crowds, an IoU of exactly 0.5) are left to pycocotools.
    """

    def __init__(self, images: Sequence[ScoredImage], class_ids: Sequence[int]) -> None:
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": number} for number in range(len(images))],
            "categories": [{"id": class_id} for class_id in class_ids],
            "annotations": [],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            dataset.createIndex()
            super().__init__(dataset, COCO(), "segm")
        self.images = images
        self.params.maxDets = [self.params.maxDets[-1]]
        self._pairs: dict[tuple[int, int], _Pair | None] = {}

    def _prepare(self) -> None:
        self._gts: Rows = defaultdict(list)
        self._dts: Rows = defaultdict(list)
        for number, (overlap, scores) in enumerate(self.images):
            target_area, predicted_area = overlap.target_area, overlap.predicted_area
            for row in np.flatnonzero(target_area).tolist():
                is_crowd = int(overlap.target_is_crowd[row])
                truth: dict[str, Any] = {"iscrowd": is_crowd, "ignore": is_crowd}
                truth |= {"id": row + 1, "row": row, "area": float(target_area[row])}
                self._gts[number, int(overlap.target_class[row])].append(truth)
            for row, class_id in enumerate(overlap.predicted_class.tolist()):
                found: dict[str, Any] = {"id": row + 1, "row": row, "score": float(scores[row])}
                found["area"] = float(predicted_area[row])
                self._dts[number, class_id].append(found)

    def evaluateImg(self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int) -> Any:
        """Matches of one class in one image, of things of one size; None if there are none."""
        key = imgId, catId
        if key not in self._gts and key not in self._dts:
            return None
        if key not in self._pairs:
            self._pairs[key] = self._pair(*key)
        pair = self._pairs[key]
        if pair is None:
            return super().evaluateImg(imgId, catId, aRng, maxDet)
        outside, is_ignored = (
            (area < aRng[0]) | (area > aRng[1]) for area in (pair.found_area, pair.true_area)
        )
        is_ignored |= pair.is_crowd
        ignored = is_ignored[pair.partner] if len(is_ignored) else outside
        return {
            "dtScores": pair.scores,
            "dtMatches": pair.is_match,
            "dtIgnore": np.where(pair.is_match, ignored, outside),
            "gtIgnore": is_ignored,
        }

    def _pair(self, image: int, class_id: int) -> _Pair | None:
        """None where pycocotools has to search."""
        truths, found = self._gts[image, class_id], self._dts[image, class_id]
        order = np.argsort([-row["score"] for row in found], kind="mergesort")
        found = [found[place] for place in order[: self.params.maxDets[-1]]]
        iou = self.ious[image, class_id]
        best = np.zeros(len(found))
        partner = np.zeros(len(found), np.int64)
        if len(iou):
            may_match = iou >= self.params.iouThrs[0]
            if (may_match.sum(0) > 1).any() or (may_match.sum(1) > 1).any():
                return None
            best, partner = iou.max(1), iou.argmax(1)
        limits = np.minimum(self.params.iouThrs, 1 - 1e-10)
        return _Pair(
            np.array([row["score"] for row in found]),
            np.array([row["area"] for row in found]),
            np.array([row["area"] for row in truths]),
            np.array([row["ignore"] for row in truths], bool),
            partner,
            best >= limits[:, None],
        )

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """IoU of predictions, the best first, with ground truth; [] if one of them is empty."""
        truths, found = self._gts.get((imgId, catId)), self._dts.get((imgId, catId))
        if not truths or not found:
            return []
        order = np.argsort([-row["score"] for row in found], kind="mergesort")
        rows = np.array([found[place]["row"] for place in order[: self.params.maxDets[-1]]])
        columns = np.array([row["row"] for row in truths])
        overlap = self.images[imgId].overlap
        shared = overlap.pixels[columns[:, None] + 1, rows + 1].T
        area = overlap.predicted_area[rows][:, None]
        is_crowd = overlap.target_is_crowd[columns]
        return shared / np.where(is_crowd, area, area + overlap.target_area[columns] - shared)


def cityscapes_average_precision(
    images: Sequence[ScoredImage], categories: Categories
) -> AveragePrecision:
    """Mask AP by Cityscapes' rule.

    Things of fewer than 100 pixels and groups need not be found; a prediction that lies mostly on
    them or on void is forgiven. One difference: caravans and trailers, which are not scored, are
    void here even if they are told apart; the official script forgives nothing on those.
    """
    table = np.array(
        [
            [_cityscapes_class(images, class_id, limit) for limit in CITYSCAPES_OVERLAPS]
            for class_id in categories.thing_ids
        ]
    ).reshape(-1, len(CITYSCAPES_OVERLAPS))
    at_75 = int(np.flatnonzero(np.isclose(CITYSCAPES_OVERLAPS, 0.75))[0])
    parts = (table, table[:, 0], table[:, at_75])
    means = [float(np.nanmean(p)) if not np.isnan(p).all() else math.nan for p in parts]
    return _precision([*means, *[math.nan] * 3], [float(row.mean()) for row in table])


def _cityscapes_class(images: Sequence[ScoredImage], class_id: int, limit: float) -> float:
    """AP of a class at one IoU; NaN if the ground truth has none of it."""
    truths, founds, misses = 0, 0, 0
    is_true: list[bool] = []
    scores: list[float] = []
    for overlap, all_scores in images:
        found = np.flatnonzero(overlap.predicted_class == class_id)
        of_class = np.flatnonzero((overlap.target_class == class_id) & (overlap.target_area > 0))
        founds += len(found)
        if not len(found) and not len(of_class):
            continue
        score = all_scores[found]
        shared = overlap.pixels[of_class[:, None] + 1, found + 1]
        area, true_area = overlap.predicted_area[found], overlap.target_area[of_class]
        is_found = shared / (true_area[:, None] + area - shared) > limit
        is_group = overlap.target_is_crowd[of_class]
        is_small = true_area < CITYSCAPES_MIN_AREA
        asked = ~is_group & ~is_small
        truths += int(asked.sum())
        for row in is_found[asked]:
            matched = np.sort(score[row])[::-1]  # all but the best are false
            misses += not len(matched)
            is_true += [place == 0 for place in range(len(matched))]
            scores += matched.tolist()
        # As the script counts it: a small group is subtracted twice.
        excused = overlap.pixels[0, found + 1] + shared[is_group].sum(0) + shared[is_small].sum(0)
        wrong = ~is_found.any(0) & (excused / area <= limit)
        is_true += [False] * int(wrong.sum())
        scores += score[wrong].tolist()
    if not truths:
        return math.nan
    return _area_under_steps(np.array(is_true, float), np.array(scores), misses) if founds else 0.0


def _area_under_steps(
    is_true: NDArray[np.float64], scores: NDArray[np.float64], misses: int
) -> float:
    """Area under precision over recall, as the Cityscapes script integrates it."""
    order = np.argsort(scores)
    below = np.concatenate(([0.0], np.cumsum(is_true[order])))  # true ones before each place
    _, first = np.unique(scores[order], return_index=True)
    tp = below[-1] - below[first]
    with np.errstate(invalid="ignore"):  # no prediction is left: all were forgiven
        precision = np.append(tp / (len(scores) - first), 1.0)
        recall = np.append(tp / (below[-1] + misses), 0.0)
    padded = np.concatenate((recall[:1], recall, [0.0]))
    return float(np.dot(precision, np.convolve(padded, [-0.5, 0, 0.5], "valid")))


def _precision(values: Sequence[float], per_class: Sequence[float]) -> AveragePrecision:
    ap, ap50, ap75, small, medium, large = values
    return AveragePrecision(ap, ap50, ap75, small, medium, large, tuple(per_class))
