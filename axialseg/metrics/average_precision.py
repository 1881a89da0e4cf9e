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
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # [IoU, recall, class, size, detections]
    per_class = (precision[:, :, k, 0, -1] for k in range(len(categories.thing_ids)))
    return _precision(
        [math.nan if value < 0 else float(value) for value in evaluation.stats[:6]],
        [float(p[p > -1].mean()) if (p > -1).any() else math.nan for p in per_class],
    )


class _OverlapEvaluation(COCOeval):
    """pycocotools' evaluation, with the IoU taken from the overlaps in place of masks."""

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

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """IoU of predictions, the best first, with ground truth; [] if one of them is empty."""
        truths, found = self._gts[imgId, catId], self._dts[imgId, catId]
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
