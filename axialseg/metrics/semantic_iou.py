"""Mean intersection over union (mIoU) of a data set.

One confusion matrix over all images; IoU of a class = TP / (TP + FP + FN); mIoU = plain average
over the classes that occur in the ground truth or in a prediction on scored pixels. Pixels whose
ground truth is void are not scored. Void predicted on a scored pixel is an error of the true class.

Checked against: deeplab2 (`tf.keras.metrics.MeanIoU`, ignored pixels with weight 0). Difference:
where void is a channel of the semantic head (COCO, class 0) Keras counts it as a class of IoU 0 as
soon as it is predicted on a scored pixel, which divides the same sum by one class more.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from axialseg.metrics.segment_overlap import shared_pixels
from axialseg.panoptic.categories import Categories


class ClassIoU(NamedTuple):
    """IoU of one class, a fraction 0..1; 0 if the class does not occur."""

    class_id: int
    name: str
    iou: float
    occurs: bool


class SemanticIoUResult(NamedTuple):
    """Mean over the classes that occur (0 if none does), and each class."""

    miou: float
    per_class: tuple[ClassIoU, ...]


def class_confusion(
    prediction: NDArray[np.integer], target: NDArray[np.integer], categories: Categories
) -> NDArray[np.int64]:
    """Pixels of one image by true and predicted class.

    Args:
        prediction: class ids ``[H, W]``, may hold the ignore class.
        target: likewise.
        categories: the classes, and the ignored one.

    Returns:
        int64 ``[classes, classes + 1]``: true class, predicted class; the last column is void.

    Raises:
        ValueError: the maps differ in size, or hold a class id that is none of the data set's.
    """
    # Counting over all ids up to the largest one needs no look-up per pixel.
    columns = np.asarray((*categories.class_ids, categories.ignore_class))
    size = int(columns.max()) + 1
    for values in (prediction, target):
        for extreme in (values.min(initial=0), values.max(initial=0)):
            if not 0 <= extreme < size:
                raise ValueError(f"class id {extreme} is none of the data set's classes")
    counts = shared_pixels(target, prediction, size, size)
    known = counts[np.ix_(columns, columns)]
    if known.sum() != target.size:
        unknown = np.setdiff1d(np.flatnonzero(counts.any(0) | counts.any(1)), columns)
        raise ValueError(f"class id {unknown[0]} is none of the data set's classes")
    return known[:-1]


class SemanticIoU(Metric):
    """mIoU of a data set, one image per `update`.

        metric.update(class_confusion(prediction, target, categories))

    Args:
        categories: the classes that are scored, and the ignored one.
        sync_on_compute: sum up over the processes, if there are several.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor
    """int64 ``[classes, classes + 1]``: true class, predicted class; the last column is void."""

    def __init__(self, categories: Categories, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.categories = categories
        size = len(categories)
        self.add_state(
            "confusion", torch.zeros((size, size + 1), dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, confusion: NDArray[np.int64]) -> None:
        """Adds one image, see `class_confusion`."""
        self.confusion += torch.from_numpy(confusion).to(self.device)

    def compute(self) -> SemanticIoUResult:
        """IoU over all images so far (of all processes, if there are several)."""
        confusion = self.confusion.cpu().numpy()
        right = confusion.diagonal()
        union = confusion.sum(1) + confusion[:, :-1].sum(0) - right
        iou = right / np.maximum(union, 1)
        occurs = union > 0
        per_class = tuple(
            ClassIoU(category.class_id, category.name, float(value), bool(seen))
            for category, value, seen in zip(self.categories.classes, iou, occurs, strict=True)
        )
        return SemanticIoUResult(float(iou.sum() / max(occurs.sum(), 1)), per_class)
