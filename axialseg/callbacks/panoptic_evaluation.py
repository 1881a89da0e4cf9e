"""Scores the predictions of a validation: PQ and mIoU at the images' original resolution."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from axialseg.inference import PanopticPrediction
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.panoptic_report import metrics_record, metrics_table
from axialseg.metrics.semantic_iou import SemanticIoU
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map
from axialseg.wandb_logging import find_wandb_logger

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
        scalars = {f"val/{name}": self.record[name] for name in LOGGED}
        # The value "step" is the x of the loggers; Lightning's own would be one step behind.
        pl_module.log_dict({**scalars, "step": float(step)}, sync_dist=True)
        if not trainer.is_global_zero:
            return
        title = f"Validation at step {step}, {images} images"
        log.info("%s\n%s", title, metrics_table(quality, semantic))
        write_json(Path(trainer.default_root_dir) / "metrics.json", self.record)
        wandb_logger = find_wandb_logger(trainer)
        if wandb_logger is not None:
            classes = self.record["classes"]
            rows = [list(row.values()) for row in classes]
            wandb_logger.log_table("val/classes", list(classes[0]), rows, step=step)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file in one move: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.tmp")
    draft.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(draft, path)
