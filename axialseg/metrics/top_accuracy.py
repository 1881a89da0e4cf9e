"""Top-1 and top-5 accuracy of a data set: ImageNet's measure.

Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", sec. 4.1
(1 - top-5 error).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

TOP = 5


class ClassAccuracy(NamedTuple):
    """Images of one class, and those whose class is among the first one or five guesses."""

    images: int
    top1: int
    top5: int


class TopAccuracyResult(NamedTuple):
    """Shares 0..1 of all images (0 without any), and the counts of each class in order."""

    images: int
    top1: float
    top5: float
    per_class: tuple[ClassAccuracy, ...]


class TopAccuracy(Metric):
    """Counts how often the class of an image is among the first guesses.

    With fewer than five classes all of them are guesses.

    Args:
        classes: number of classes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor
    """int64 ``[classes, 3]``: images, hits of the first guess, hits of the first five."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        zeros = torch.zeros((classes, 3), dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: float ``[B, classes]``.
            labels: int64 ``[B]``, 0..classes-1.

        Raises:
            ValueError: the shapes do not fit.
        """
        if logits.shape != (len(labels), self.classes):
            raise ValueError(
                f"logits are {tuple(logits.shape)} for {len(labels)} labels of {self.classes} "
                "classes"
            )
        guesses = logits.topk(min(TOP, self.classes)).indices
        is_right = guesses == labels[:, None]
        hits = torch.stack([torch.ones_like(labels), is_right[:, 0], is_right.any(1)], 1)
        self.counts.index_add_(0, labels, hits.long())

    def compute(self) -> TopAccuracyResult:
        """Accuracy over all images so far (of all processes, if there are several)."""
        images, top1, top5 = self.counts.sum(0).tolist()
        return TopAccuracyResult(
            images,
            top1 / max(images, 1),
            top5 / max(images, 1),
            tuple(ClassAccuracy(*row) for row in self.counts.tolist()),
        )
