"""mIoU against deeplab2's stored results and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from axialseg.metrics.semantic_iou import SemanticIoU, class_confusion
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO

GOLDENS = np.load(Path(__file__).parents[1] / "goldens" / "deeplab2" / "metrics.npz")
SMALL = contiguous_categories([(n, name, False, (n, 0, 0)) for n, name in enumerate("abcd", 1)])


def add(metric: SemanticIoU, prediction: NDArray, target: NDArray) -> None:
    metric.update(class_confusion(prediction, target, metric.categories))


def row(*values: int) -> NDArray[np.int32]:
    return np.array([values], np.int32)


def test_deeplab2_golden_cityscapes() -> None:
    metric = SemanticIoU(CITYSCAPES)
    for image in range(4):
        add(
            metric,
            GOLDENS[f"cityscapes|semantic_pred{image}"],
            GOLDENS[f"cityscapes|gt{image}"] // 1000,
        )
    assert metric.compute().miou == pytest.approx(float(GOLDENS["cityscapes|miou"]), abs=1e-6)


def test_deeplab2_golden_coco_counts_predicted_void_as_one_more_class() -> None:
    metric = SemanticIoU(COCO)
    for image in range(4):
        add(metric, GOLDENS[f"coco|semantic_pred{image}"], GOLDENS[f"coco|gt{image}"] // 256)
    result = metric.compute()
    assert metric.confusion[:, -1].sum() > 0
    classes = sum(entry.occurs for entry in result.per_class)
    keras = result.miou * classes / (classes + 1)
    assert keras == pytest.approx(float(GOLDENS["coco|miou"]), abs=1e-6)


def test_by_hand() -> None:
    metric = SemanticIoU(SMALL)
    #        scored: a right, a void, b right, b as a; void pixels: c, void
    add(metric, row(1, 0, 2, 1, 3, 0), row(1, 1, 2, 2, 0, 0))
    result = metric.compute()
    ious = {entry.name: entry.iou for entry in result.per_class if entry.occurs}
    assert ious == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 2)}
    assert result.miou == pytest.approx(5 / 12)
    # A class that is only predicted occurs, with IoU 0; one that is seen nowhere is left out.
    add(metric, row(3), row(1))
    assert metric.compute().miou == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)


def test_data_set_miou_is_not_the_mean_over_images() -> None:
    metric = SemanticIoU(SMALL)
    add(metric, row(1, 1, 1, 2), row(1, 1, 1, 1))
    add(metric, row(2, 2), row(2, 2))
    assert metric.compute().miou == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_nothing_scored_is_zero() -> None:
    metric = SemanticIoU(SMALL)
    add(metric, row(1, 2), row(0, 0))
    assert metric.compute().miou == 0.0
    assert metric.confusion.dtype == torch.int64


@pytest.mark.parametrize("wrong", [5, -1, 70000])
def test_unknown_ids_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"class id {wrong} "):
        add(SemanticIoU(SMALL), row(1, wrong), row(1, 1))
    with pytest.raises(ValueError, match=f"class id {wrong} "):
        add(SemanticIoU(SMALL), row(1, 1), row(1, wrong))
    assert SemanticIoU(SMALL).confusion.sum() == 0


def test_id_between_the_classes_and_void_is_refused() -> None:
    with pytest.raises(ValueError, match="class id 19 "):
        add(SemanticIoU(CITYSCAPES), row(1, 19), row(1, 1))
    with pytest.raises(ValueError, match="class id 33 "):
        add(SemanticIoU(CITYSCAPES), row(1, 255), row(1, 33))


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1\).*\(1, 2\)"):
        add(SemanticIoU(SMALL), row(1), row(1, 1))
