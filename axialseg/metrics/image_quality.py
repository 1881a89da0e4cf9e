"""Panoptic quality of one image alone: what tells good images from bad ones."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.metrics.panoptic_quality import match_segments
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.panoptic_map import PanopticSegments


class ImageQuality(NamedTuple):
    """Counts of one image.

    Attributes:
        pq: fraction, the plain average over the classes that it has or that are predicted; 1 where
            there are none.
        matched: segments that are found.
        false: predicted segments that are none.
        missed: segments that are not found.
    """

    pq: float
    matched: int
    false: int
    missed: int


def image_quality(prediction: PanopticSegments, target: PanopticSegments) -> ImageQuality:
    """Scores one image by the rules of `panoptic_quality.match_segments`."""
    matches = match_segments(segment_overlap(prediction, target))
    length = int(max([0, *prediction.class_ids, *target.class_ids])) + 1

    def by_class(classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=length)

    found = target.class_ids[matches.target]
    false, missed = prediction.class_ids[matches.false], target.class_ids[matches.missed]
    total = by_class(found) + 0.5 * by_class(false) + 0.5 * by_class(missed)
    overlap = np.bincount(found, matches.iou, length)
    seen = total > 0
    pq = float((overlap[seen] / total[seen]).mean()) if seen.any() else 1.0
    return ImageQuality(pq, len(found), len(false), len(missed))
