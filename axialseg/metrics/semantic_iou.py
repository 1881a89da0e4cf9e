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

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import runs


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


class SemanticIoU(Metric):
    """mIoU of a data set, one image per `update`.

    Args:
        categories: the classes that are scored, and the ignored one.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor
    """int64 ``[classes, classes + 1]``: true class, predicted class; the last column is void."""

    def __init__(self, categories: Categories) -> None:
        super().__init__()
        self.categories = categories
        size = len(categories)
        self.add_state(
            "confusion", torch.zeros((size, size + 1), dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, prediction: NDArray[np.integer], target: NDArray[np.integer]) -> None:
        """Adds one image: class ids ``[H, W]``, either may hold the ignore class.

        Raises:
            ValueError: the maps differ in size, or hold a class id that is none of the data set's.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"the prediction is {prediction.shape}, the ground truth {target.shape}"
            )
        # Counting over all ids up to the largest one needs no look-up per pixel.
        columns = np.asarray((*self.categories.class_ids, self.categories.ignore_class))
        size = int(columns.max()) + 1
        starts, lengths = runs(prediction, target)
        predicted, true = prediction.ravel()[starts], target.ravel()[starts]
        for values in (predicted, true):
            for extreme in (values.min(initial=0), values.max(initial=0)):
                if not 0 <= extreme < size:
                    raise ValueError(f"class id {extreme} is none of the data set's classes")
        counts = np.bincount(true * np.intp(size) + predicted, lengths, size * size)
        counts = counts.astype(np.int64).reshape(size, size)
        known = counts[np.ix_(columns, columns)]
        if known.sum() != target.size:
            unknown = np.setdiff1d(np.flatnonzero(counts.any(0) | counts.any(1)), columns)
            raise ValueError(f"class id {unknown[0]} is none of the data set's classes")
        self.confusion += torch.from_numpy(known[:-1]).to(self.device)

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
