"""Panoptic quality of one image alone: what tells good images from bad ones."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.metrics.panoptic_quality import match_segments
from axialseg.metrics.segment_overlap import SegmentOverlap


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

    @property
    def segments(self) -> int:
        """All that count; where there are none, the PQ says nothing."""
        return self.matched + self.false + self.missed


def image_quality(overlap: SegmentOverlap) -> ImageQuality:
    """Scores one image by the rules of `panoptic_quality.match_segments`."""
    matches = match_segments(overlap)
    target, predicted = overlap.target_class, overlap.predicted_class
    length = int(max([0, *predicted, *target])) + 1

    def by_class(classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=length)

    found = target[matches.target]
    false, missed = predicted[matches.false], target[matches.missed]
    total = by_class(found) + 0.5 * by_class(false) + 0.5 * by_class(missed)
    iou = np.bincount(found, matches.iou, length)
    seen = total > 0
    pq = float((iou[seen] / total[seen]).mean()) if seen.any() else 1.0
    return ImageQuality(pq, len(found), len(false), len(missed))
