"""Scores the predictions of a validation: PQ and mIoU at the images' original resolution."""

import logging
from typing import Any

import lightning.pytorch as pl
import torch

from axialseg.callbacks.scores import log_scores
from axialseg.inference.predict import PanopticPrediction
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.panoptic_report import metrics_record, metrics_table
from axialseg.metrics.semantic_iou import SemanticIoU
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map

log = logging.getLogger(__name__)

LOGGED = ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU")


class PanopticEvaluation(pl.Callback):
    """After each validation: a table as text, `metrics.json`, scalars ``val/*``, a table for W&B.

    Counts are summed over ranks. Images without ground truth are left out.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        """What the newest `metrics.json` holds; None before the first validation."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from zero."""
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        self._ignore_class = categories.ignore_class
        self._quality = PanopticQuality(categories)
        self._semantic = SemanticIoU(categories)
        self._images = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[PanopticPrediction],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the images of a batch."""
        for prediction, target in zip(outputs, batch["segments"], strict=True):
            if target is None:
                continue
            segments = segments_from_panoptic_map(prediction.panoptic, self._ignore_class)
            self._quality.update(segments, target)
            self._semantic.update(prediction.semantic, target.semantic_map(self._ignore_class))
            self._images += 1

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sums over the ranks and tells everyone."""
        if trainer.sanity_checking:
            return
        # On the model's device, because NCCL sums tensors on GPUs only.
        counted = torch.tensor(self._images, device=pl_module.device)
        images = int(trainer.strategy.reduce(counted, reduce_op="sum"))
        if images == 0:
            log.info("No image has ground truth; nothing is scored.")
            return
        quality = self._quality.to(pl_module.device).compute()
        semantic = self._semantic.to(pl_module.device).compute()
        step = trainer.global_step
        self.record = {"step": step, "images": images, **metrics_record(quality, semantic)}
        table = metrics_table(quality, semantic)
        log_scores(trainer, pl_module, self.record, LOGGED, table)
