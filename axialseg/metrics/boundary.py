"""Boundaries of segments, for boundary PQ and boundary IoU.

Source: Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
sec. 4 and 5, and their code. The boundary of a mask is made of its pixels whose distance from other
pixels, or from the end of the image, is at most a limit. The distance is counted in steps to the
eight neighbours.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from axialseg.metrics.segment_overlap import shared_pixels
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

SHARE = 0.02  # distance, as a share of the image's diagonal


def boundary_overlap(prediction: PanopticSegments, target: PanopticSegments) -> NDArray[np.int64]:
    """Pixels that the boundaries of segments share, int64 ``[T + 2, P + 2]``.

    Row and column 0 are void (all of it), the last ones what no boundary covers.

    Raises:
        ValueError: the maps differ in size.
    """
    maps, counts = [], []
    for segments in (target, prediction):
        inside = len(segments.class_ids) + 1
        is_inside = ~is_boundary(segments.id_map) & (segments.id_map > 0)
        maps.append(np.where(is_inside, np.int32(inside), segments.id_map))
        counts.append(inside + 1)
    return shared_pixels(maps[0], maps[1], counts[0], counts[1])


def boundary_classes(
    prediction: NDArray[np.integer], target: NDArray[np.integer], categories: Categories
) -> NDArray[np.int64]:
    """Of each class, how many pixels its two boundaries share, and have: int64 ``[classes, 2]``.

    Pixels whose ground truth is void are left out.

    Args:
        prediction: class ids ``[H, W]``.
        target: class ids ``[H, W]``.
        categories: the classes.

    Raises:
        ValueError: the maps differ in size.
    """
    size = max(categories.semantic_channels, categories.ignore_class + 1)
    true, predicted = (
        np.where(is_boundary(classes), classes, size).astype(np.int32)
        for classes in (target, prediction)
    )
    true[target == categories.ignore_class] = size + 1
    counts = shared_pixels(true, predicted, size + 2, size + 1)[:-1]
    ids = np.asarray(categories.class_ids)
    shared = counts.diagonal()[ids]
    return np.stack([shared, counts.sum(1)[ids] + counts.sum(0)[ids] - shared], axis=1)


def is_boundary(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which pixels are near to another value or to the end of the image; bool ``[H, W]``."""
    height, width = values.shape
    distance = max(1, round(SHARE * float(np.hypot(height, width))))
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    numbers = values.astype(np.float32)  # exact up to 2^24
    near = np.asarray(cv2.dilate(numbers, kernel) != cv2.erode(numbers, kernel))
    near[:distance], near[-distance:] = True, True
    near[:, :distance], near[:, -distance:] = True, True
    return near
