"""A metric: the mean number of predicted segments in an image, and the callback that feeds it."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class SegmentCount(Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("segments", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, panoptic: np.ndarray) -> None:
        self.segments += len(np.unique(panoptic))
        self.images += 1

    def compute(self) -> Tensor:
        return self.segments / self.images


class SegmentCounting(pl.Callback):
    def on_validation_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.metric = SegmentCount()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        for prediction in outputs:
            self.metric.update(prediction.panoptic)

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        task.log("val/segments", self.metric.to(task.device).compute())
