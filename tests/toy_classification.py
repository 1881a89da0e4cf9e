"""Classification in miniature: a net that knows colours, and images of 8 x 8 pixels."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from axialseg.datasets.classification_datamodule import EvaluationImages, TrainingImages
from axialseg.datasets.image_classes import ImageClasses, ImageSample
from axialseg.datasets.loaders import stack_items
from axialseg.datasets.sampler import CounterSampler, ShardSampler
from axialseg.losses.classification_loss import ClassificationLoss
from axialseg.optim.adam import Adam
from axialseg.optim.param_groups import parameter_groups
from axialseg.optim.poly_schedule import PolySchedule
from axialseg.tasks.classification_task import ClassificationTask

CLASSES = ImageClasses(("n1", "n2", "n3"), ("red thing", "green thing", "blue thing"))


class ByColor(nn.Module):
    """Logits are the mean colours, shifted by a weight that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, image: Tensor) -> Tensor:
        return image.float().mean((2, 3)) / 50 + self.shift


class ToyImages:
    """Image k is of class k % 3 and has its colour, but every fourth one has the next class's."""

    categories = CLASSES

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> ImageSample:
        label = index % 3
        image = np.full((8, 8, 3), 40, np.uint8)
        image[..., (label + 1) % 3 if index % 4 == 3 else label] = 200
        return ImageSample(image, label, f"{index:02d}.jpg", f"toy/{index:02d}.jpg")


def same(image: np.ndarray, *_: Any) -> np.ndarray:
    """The transform that changes nothing."""
    return image


class ToyData(pl.LightningDataModule):
    """Batches of 2."""

    categories = CLASSES

    def __init__(self, val_images: int = 8) -> None:
        super().__init__()
        self.train_dataset = ToyImages(6)
        self.val_dataset = ToyImages(val_images)

    def train_dataloader(self) -> DataLoader:
        items: Any = TrainingImages(self.train_dataset, same, 0)
        return DataLoader(items, 2, sampler=CounterSampler(6, 0), collate_fn=stack_items)

    def val_dataloader(self) -> DataLoader:
        items: Any = EvaluationImages(self.val_dataset, same)
        sampler = ShardSampler(len(self.val_dataset))
        return DataLoader(items, 2, sampler=sampler, collate_fn=stack_items)


def toy_task(max_steps: int = 10, lr: float = 0.02, **arguments: Any) -> ClassificationTask:
    """The task on the toy net."""
    return ClassificationTask(
        ByColor(),
        ClassificationLoss(label_smoothing=0.1),
        optimizer=partial(Adam),
        parameter_groups=partial(parameter_groups, lr=lr),
        curve=PolySchedule(max_steps),
        **arguments,
    )
