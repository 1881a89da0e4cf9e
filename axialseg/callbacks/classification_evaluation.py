"""Scores the guesses of a validation: top-1 and top-5 accuracy."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from axialseg.callbacks.scores import log_scores
from axialseg.datasets.image_classes import ImageClasses
from axialseg.metrics.accuracy_report import accuracy_record, accuracy_table
from axialseg.metrics.top_accuracy import TopAccuracy

LOGGED = ("top1", "top5")


class ClassificationEvaluation(pl.Callback):
    """After each validation: a table as text, `metrics.json`, scalars ``val/*``, a table for W&B.

    Counts are summed over ranks.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        """What the newest `metrics.json` holds; None before the first validation."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from zero."""
        self._classes: ImageClasses = trainer.datamodule.categories  # type: ignore[attr-defined]
        self._accuracy = TopAccuracy(len(self._classes)).to(pl_module.device)

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
        self._accuracy.update(outputs, batch["label"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sums over the ranks and tells everyone."""
        if trainer.sanity_checking:
            return
        accuracy = self._accuracy.compute()
        names = self._classes.names
        self.record = {
            "step": trainer.global_step,
            "images": accuracy.images,
            **accuracy_record(accuracy, self._classes.ids, names),
        }
        log_scores(trainer, pl_module, self.record, LOGGED, accuracy_table(accuracy, names))
