"""Writes the guesses of a validation as a table."""

import csv
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from torch import Tensor

from axialseg.datasets.image_classes import ImageClasses
from axialseg.machine.whole_file import whole_file
from axialseg.metrics.top_accuracy import TOP

Row = list[str]

log = logging.getLogger(__name__)


class ClassificationPredictions(pl.Callback):
    """Writes `predictions.csv`: image, its class, and the five best guesses with probabilities.

    Rows are sorted by image, whatever the number of ranks.

    Args:
        folder: None is the folder of the run.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a new table."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor,  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the images of a batch."""
        classes: ImageClasses = trainer.datamodule.categories  # type: ignore[attr-defined]
        best = outputs.softmax(1).topk(min(TOP, len(classes)))
        columns = batch["label"].tolist(), *map(Tensor.tolist, best)
        rows = zip(batch["image_id"], *columns, strict=True)
        for image_id, label, probabilities, guesses in rows:
            row = [image_id, classes.ids[label]]
            for guess, probability in zip(guesses, probabilities, strict=True):
                row += [classes.ids[guess], f"{probability:.6f}"]
            self._rows.append(row)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collects the other ranks' rows and writes the table."""
        if trainer.sanity_checking:
            return
        ranks = [self._rows]
        if trainer.world_size > 1:
            ranks = [[]] * trainer.world_size
            dist.all_gather_object(ranks, self._rows)
        if not trainer.is_global_zero:
            return
        rows = sorted(row for rank in ranks for row in rank)
        guesses = (len(rows[0]) - 2) // 2 if rows else 0
        heads = [f"{head}{place}" for place in range(1, guesses + 1) for head in ("guess", "p")]
        path = Path(self.folder or trainer.default_root_dir) / "predictions.csv"
        with whole_file(path) as draft, draft.open("w", newline="") as file:
            csv.writer(file).writerows([["image", "class", *heads], *rows])
        log.info("Predictions: %s", path)
