"""Scores the predictions of a validation: PQ, mIoU and mask AP at the images' own resolution."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from axialseg.callbacks.background import Background
from axialseg.callbacks.scores import log_scores
from axialseg.evaluation.image_score import ImageScore, plain_id, score_image
from axialseg.evaluation.summary import summarize
from axialseg.evaluation.tables import metrics_record, metrics_table, warnings
from axialseg.evaluation.unfinished import Journal, unfinished_folder
from axialseg.inference.predict import PanopticPrediction
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map

log = logging.getLogger(__name__)

LOGGED = (
    *(f"{name}{group}" for name in ("PQ", "SQ", "RQ") for group in ("", "_things", "_stuff")),
    *("mIoU", "AP", "AP50", "AP75"),
)


class PanopticEvaluation(pl.Callback):
    """After each validation: a table as text, `metrics.json`, scalars ``val/*``, classes.

    The PQ of each class is logged as ``classes/<name>``; W&B also gets tables and a chart of them.

    Images are scored beside the next batch's forward pass. Their counts are summed up in the order
    of the data set, so any number of ranks gives the same numbers to the last bit. Images without
    ground truth are left out.

    Args:
        mask_ap: score instances; None: in an evaluation, but not in the validations of a training,
            where it would cost time.
        boundary: also score boundaries (boundary PQ, boundary IoU).
    """

    def __init__(self, mask_ap: bool | None = None, boundary: bool = False) -> None:
        self.mask_ap = mask_ap
        self.boundary = boundary
        self.record: dict[str, Any] | None = None
        """What the newest `metrics.json` holds; None before the first validation."""
        self.images: list[ImageScore] = []
        """Of the newest validation, on rank 0."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from zero, or from where an interrupted evaluation has stopped."""
        self._categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        folder = unfinished_folder(trainer.default_root_dir)
        self._journal = Journal(folder, "scores", trainer.global_rank)
        self._background = Background()
        self._images = {
            index: ImageScore.from_json(row) for index, row in self._journal.rows.items() if row
        }

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[PanopticPrediction],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hands the images of a batch over."""
        with_scores = self.mask_ap
        if with_scores is None:
            with_scores = trainer.state.fn == TrainerFn.VALIDATING
        for prediction, target in zip(outputs, batch["segments"], strict=True):
            if target is None:
                self._journal.add(prediction.position, None)
            else:
                scores = prediction.scores() if with_scores else None
                self._background.give(self._score, prediction, target, scores)

    def _score(
        self,
        prediction: PanopticPrediction,
        target: PanopticSegments,
        scores: NDArray[np.float64] | None,
    ) -> None:
        image = score_image(
            prediction.position,
            prediction.file_name,
            segments_from_panoptic_map(prediction.panoptic, self._categories.ignore_class),
            prediction.semantic,
            target,
            self._categories,
            self.boundary,
        )._replace(
            scores=scores,
            removed=prediction.removed,
            capacity=prediction.capacity,
            image_id=plain_id(prediction.image_id),
        )
        self._images[image.position] = image
        self._journal.add(image.position, image.to_json())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collects the images of all ranks and tells everyone."""
        self._background.finish()
        self._journal.close()
        if trainer.sanity_checking:
            return
        ranks: list[dict[int, ImageScore]] = [self._images] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, self._images)
        images = {index: image for rank in ranks for index, image in rank.items()}
        if not images:
            log.info("No image has ground truth; nothing is scored.")
            if trainer.is_global_zero:  # an earlier evaluation's would be taken for this one's
                for name in ("metrics.json", "report.html", "classes.csv"):
                    (Path(trainer.default_root_dir) / name).unlink(missing_ok=True)
            return
        told: tuple[str, dict[str, Any]] = ("", {})
        if trainer.is_global_zero:
            self.images = list(images.values())
            summary = summarize(self.images, self._categories)
            total = len(trainer.datamodule.val_dataset)  # type: ignore[attr-defined]
            head = {"step": trainer.global_step, "images": len(images)}
            head |= {"images_of_data_set": total} if len(images) < total else {}
            told = (metrics_table(summary), head | metrics_record(summary))
            for warning in warnings(summary):
                log.warning("%s", warning)
        table, record = trainer.strategy.broadcast(told)
        self.record = record
        log_scores(trainer, pl_module, record, LOGGED, table, of_classes="PQ")

    def on_exception(self, *_: Any) -> None:
        """Keeps what is done."""
        if hasattr(self, "_background"):
            self._background.stop()
            self._journal.close()
