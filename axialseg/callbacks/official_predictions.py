"""Writes the predictions of a validation in official formats."""

import logging
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist

from axialseg.callbacks.background import Background
from axialseg.errors import UserError
from axialseg.evaluation.exports import (
    FORMATS,
    Export,
    ExportedImage,
    distinct_names,
    put_in_place,
    write_zip,
)
from axialseg.evaluation.unfinished import Journal, unfinished_folder, writing
from axialseg.inference.predict import PanopticPrediction

log = logging.getLogger(__name__)


class OfficialPredictions(pl.Callback):
    """Writes predictions as official scorers and servers take them, see `evaluation/exports.py`.

    Each rank writes its own images as they come, beside the next batch's forward pass. The result
    takes the place of an earlier one when all are there.

    Args:
        folder: None is the folder of the run.
        formats: `panoptic`, `coco_instances`, `cityscapes_labels`, `cityscapes_instances`.
        zip_name: also pack each format for upload, under this name (with several formats, and the
            format's name); COCO wants `panoptic_<split>_<method>_results`.

    Raises:
        UserError: there is no such format.
    """

    def __init__(
        self,
        folder: str | None = None,
        formats: Sequence[str] = ("panoptic",),
        zip_name: str | None = None,
    ) -> None:
        for name in formats:
            if name not in FORMATS:
                close = get_close_matches(name, FORMATS, 1) or sorted(FORMATS)
                raise UserError(f"there is no format {name!r}; give {' or '.join(close)}")
        self.folder = folder
        self.formats = formats
        self.zip_name = zip_name

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the drafts, or those of an interrupted evaluation."""
        categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        self._output = Path(self.folder or trainer.default_root_dir)
        unfinished = unfinished_folder(trainer.default_root_dir)
        self._is_kept = unfinished is not None  # until all has ended
        self._draft = (unfinished or self._output) / ".predictions"
        self._exports: dict[str, Export] = {n: FORMATS[n](categories) for n in self.formats}
        if trainer.is_global_zero:
            if unfinished is None:
                shutil.rmtree(self._draft, ignore_errors=True)
            with writing(self._output):
                for name in self.formats:
                    (self._draft / name).mkdir(parents=True, exist_ok=True)
        trainer.strategy.barrier()
        self._journal = Journal(unfinished, "exports", trainer.global_rank)
        self._background = Background()

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
        if not trainer.sanity_checking:
            for prediction in outputs:
                categories = trainer.datamodule.categories  # type: ignore[attr-defined]
                image = ExportedImage.of(prediction, categories)
                if image.position not in self._journal.rows:  # whose file may be in place
                    self._background.give(self._write, image)

    def _write(self, image: ExportedImage) -> None:
        with writing(self._output):
            tables = {n: e.write(self._draft / n, image) for n, e in self._exports.items()}
        self._journal.add(image.position, [image.file_name, tables])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collects what the ranks have written and puts it in place."""
        self._background.finish()
        self._journal.close()
        if trainer.sanity_checking:
            return
        ranks: list[dict[int, Any]] = [self._journal.rows] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, self._journal.rows)
        if trainer.is_global_zero:
            rows = sorted({index: row for rank in ranks for index, row in rank.items()}.items())
            self._finish([index for index, _ in rows], [row for _, row in rows])

    def _finish(self, indices: list[int], rows: list[Any]) -> None:
        names = distinct_names([file_name for file_name, _ in rows])
        for form, export in self._exports.items():
            images = [
                (index, name, tables[form])
                for index, name, (_, tables) in zip(indices, names, rows, strict=True)
            ]
            with writing(self._output):
                results = export.finish(self._draft / form, images)
            put_in_place(self._draft / form, self._output, results)
            log.info("Official predictions: %s", self._output / results[-1])
            if self.zip_name is not None:
                suffix = "" if len(self.formats) == 1 else f"_{form}"
                path = self._output / f"{self.zip_name}{suffix}.zip"
                write_zip(path, self._output, results)
                log.info("Packed for upload: %s", path)
        if not self._is_kept:
            shutil.rmtree(self._draft)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """Leaves an earlier result as it was."""
        if hasattr(self, "_background"):
            self._background.stop()
            self._journal.close()
            if unfinished_folder(trainer.default_root_dir) is None:
                shutil.rmtree(self._draft, ignore_errors=True)
