"""Boundary PQ and boundary IoU against the published definition, mask by mask."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scoring_cases import SMALL, random_pair

from axialseg.evaluation.image_score import score_image
from axialseg.evaluation.summary import summarize
from axialseg.metrics.boundary import boundary_classes, boundary_overlap, is_boundary
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.panoptic_map import PanopticSegments

SHAPE = (70, 110)


def mask_to_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sec. 4 of the paper: a step is an erosion by 3 x 3; outside of the image is no mask."""
    height, width = mask.shape
    steps = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


def boundary_iou(prediction: NDArray, target: NDArray, void: NDArray) -> float:
    """Of two masks; what the prediction's boundary has on void is left out of the union."""
    ours, theirs = mask_to_boundary(prediction), mask_to_boundary(target)
    both = int((ours & theirs).sum())
    union = int(ours.sum()) + int(theirs.sum()) - both - int((ours & void).sum())
    return both / union if union else 0.0


def by_definition(prediction: PanopticSegments, target: PanopticSegments) -> dict[str, float]:
    """Sum of IoU, and TP, of the rule min(IoU, boundary IoU) > 0.5."""
    void = target.id_map == 0
    total = {"iou": 0.0, "tp": 0}
    for t, class_id in enumerate(target.class_ids.tolist()):
        for p, predicted in enumerate(prediction.class_ids.tolist()):
            if predicted != class_id or target.is_crowd[t]:
                continue
            ours, theirs = prediction.id_map == p + 1, target.id_map == t + 1
            both = (ours & theirs).sum()
            if not both:
                continue
            iou = both / (ours.sum() + theirs.sum() - both - (ours & void).sum())
            iou = min(iou, boundary_iou(ours, theirs, void))
            if iou > 0.5:
                total["iou"] += iou
                total["tp"] += 1
    return total


@pytest.mark.parametrize("seed", range(6))
def test_boundary_pq_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, target = random_pair(rng, SHAPE, (1, 2, 3), 6)
    metric = PanopticQuality(SMALL)
    metric.update(segment_overlap(prediction, target), boundary_overlap(prediction, target))
    expected = by_definition(prediction, target)
    assert float(metric.iou.sum()) == pytest.approx(expected["iou"], abs=1e-12)
    assert int(metric.tp.sum()) == expected["tp"]
    plain = PanopticQuality(SMALL)
    plain.update(segment_overlap(prediction, target))
    assert metric.compute().all.pq <= plain.compute().all.pq
    count = int((~target.is_crowd).sum())
    assert int(metric.tp.sum() + metric.fn.sum()) == count


def test_a_perfect_prediction_has_perfect_boundaries() -> None:
    rng = np.random.default_rng(0)
    _, target = random_pair(rng, SHAPE, (1, 2, 3), 6)
    target = target._replace(is_crowd=np.zeros(len(target.class_ids), bool))
    image = score_image(0, "", target, target.semantic_map(0), target, SMALL, with_boundary=True)
    summary = summarize([image], SMALL)
    assert summary.boundary is not None
    assert summary.boundary.all.pq == 1.0
    assert summary.boundary_iou == 1.0


def test_the_distance_is_two_per_cent_of_the_diagonal() -> None:
    values = np.zeros((300, 400), np.int32)  # a diagonal of 500 pixels: 10
    values[:, 200:] = 1
    boundary = is_boundary(values)
    assert boundary[150].nonzero()[0].tolist() == [*range(10), *range(190, 210), *range(390, 400)]
    assert boundary[:, 100].sum() == 20


def test_boundary_iou_of_classes_is_the_definition() -> None:
    rng = np.random.default_rng(1)
    prediction, target = random_pair(rng, SHAPE, (1, 2, 3), 8)
    ours, theirs = prediction.semantic_map(0), target.semantic_map(0)
    table = boundary_classes(ours, theirs, SMALL)
    for class_id, (both, union) in zip(SMALL.class_ids, table.tolist(), strict=True):
        expected = boundary_iou(ours == class_id, theirs == class_id, theirs == 0)
        assert both / max(union, 1) == pytest.approx(expected)
