"""From the counts of all images to the scores of a data set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.evaluation.image_score import ImageScore
from axialseg.metrics.average_precision import AveragePrecision, ScoredImage, average_precision
from axialseg.metrics.panoptic_quality import (
    PanopticQuality,
    PanopticQualityResult,
    match_segments,
)
from axialseg.metrics.semantic_iou import SemanticIoU, SemanticIoUResult
from axialseg.panoptic.categories import Categories


class Summary(NamedTuple):
    """Scores of a data set.

    Attributes:
        images: number of images that were scored.
        quality: PQ, SQ and RQ.
        semantic: mIoU.
        precision: mask AP; None if segments have no scores.
        boundary: boundary PQ; None if boundaries were not counted.
        boundary_iou: mean boundary IoU of the classes that occur, a fraction; None likewise.
        removed: name of a limit -> class id -> how many segments of that class it has removed.
        crowded: images that hold more things than the model can predict.
    """

    images: int
    quality: PanopticQualityResult
    semantic: SemanticIoUResult
    precision: AveragePrecision | None = None
    boundary: PanopticQualityResult | None = None
    boundary_iou: float | None = None
    removed: Mapping[str, Mapping[int, int]] = MappingProxyType({})
    crowded: int = 0


def summarize(images: Sequence[ImageScore], categories: Categories) -> Summary:
    """Sums up images in the order of the data set, so that not even rounding depends on theirs."""
    images = sorted(images, key=lambda image: image.position)
    # One process has the counts of all images.
    quality, boundary = (PanopticQuality(categories, sync_on_compute=False) for _ in range(2))
    semantic = SemanticIoU(categories, sync_on_compute=False)
    classes = np.zeros((len(categories), 2), np.int64)
    removed: dict[str, Counter[int]] = {}
    confusion = np.zeros((len(categories), len(categories) + 1), np.int64)
    for image in images:
        quality.update(image.overlap)
        true, predicted, pixels = image.confusion
        confusion[true, predicted] += pixels  # each pair is listed once
        for limit, counts in image.removed.items():
            removed.setdefault(limit, Counter()).update(counts)
        if image.boundary is not None and image.boundary_classes is not None:
            boundary.update(image.overlap, image.boundary)
            classes += image.boundary_classes
    semantic.update(confusion)
    # Of equal scores the official scorer takes those of the smaller image id first.
    by_id = sorted(images, key=lambda image: image.image_id)
    scored = [ScoredImage(i.overlap, i.scores) for i in by_id if i.scores is not None]
    has_boundary = bool(images) and images[0].boundary is not None
    return Summary(
        len(images),
        quality.compute(),
        semantic.compute(),
        average_precision(scored, categories) if scored and len(scored) == len(images) else None,
        boundary.compute() if has_boundary else None,
        _mean_iou(classes) if has_boundary else None,
        removed,
        sum(_is_crowded(image, categories) for image in images),
    )


def called_instead(image: ImageScore, categories: Categories) -> list[tuple[int, int | None]]:
    """What the missed segments of an image were called.

    Returns:
        (class id, class id of the prediction that covers more than half of it, if any), one entry
        for each missed segment.
    """
    overlap = image.overlap
    found = []
    for row in match_segments(overlap).missed.tolist():
        area = max(int(overlap.target_area[row]), 1)
        by_class = np.bincount(overlap.predicted_class, overlap.pixels[row + 1, 1:], 1)
        best = int(by_class.argmax())
        is_called = 2 * by_class[best] > area and best in categories.by_class_id
        found.append((int(overlap.target_class[row]), best if is_called else None))
    return found


def _mean_iou(classes: NDArray[np.int64]) -> float:
    occurs = classes[:, 1] > 0
    return float((classes[occurs, 0] / classes[occurs, 1]).mean()) if occurs.any() else 0.0


def _is_crowded(image: ImageScore, categories: Categories) -> bool:
    overlap = image.overlap
    things = categories.is_thing_table[overlap.target_class] & ~overlap.target_is_crowd
    return image.capacity is not None and int(things.sum()) > image.capacity
