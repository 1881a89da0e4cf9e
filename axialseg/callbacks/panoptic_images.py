"""Pictures of predictions beside their ground truth."""

from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from axialseg.formats.coco_panoptic import below
from axialseg.inference.predict import PanopticPrediction
from axialseg.loggers.wandb import find_wandb_logger
from axialseg.machine.whole_file import whole_file
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map
from axialseg.visualization.panoptic import comparison


class PanopticImages(pl.Callback):
    """Draws image | ground truth | prediction of the first images of each validation.

    Of an image without ground truth, image | prediction.

    Written to `images/<name of the image>.png` in the folder of the run, in folders as the images,
    over those of the validation before, and to W&B if that logs. Under several ranks these are the
    first images of rank 0.

    Args:
        count: number of images.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._pictures: dict[str, NDArray[np.uint8]] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a new set."""
        self._pictures = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[PanopticPrediction],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws what is still missing."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        for position, prediction in enumerate(outputs):
            if len(self._pictures) == self.count:
                return
            shape = prediction.panoptic.shape
            height, width = batch["resized_size"][position]
            image = _at_size(batch["image"][position, :, :height, :width], shape)
            truth = batch["segments"][position]
            predicted = segments_from_panoptic_map(prediction.panoptic, categories.ignore_class)
            self._pictures[self._free_name(prediction.file_name)] = comparison(
                image, truth, predicted, categories
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the set."""
        if not self._pictures:
            return
        folder = Path(trainer.default_root_dir) / "images"
        for name, picture in self._pictures.items():
            with whole_file(folder / f"{name}.png") as draft:
                Image.fromarray(picture).save(draft)
        wandb_logger = find_wandb_logger(trainer)
        if wandb_logger is not None:
            pictures = list(self._pictures.values())
            wandb_logger.log_image(
                "val/images", pictures, trainer.global_step, caption=list(self._pictures)
            )

    def _free_name(self, file_name: str) -> str:
        """The image's name without its suffix; with it where another has the same."""
        name = below(file_name)
        stem = str(name.with_suffix(""))
        return str(name) if stem in self._pictures else stem


def _at_size(image: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An image uint8 ``[3, h, w]`` as uint8 ``[H, W, 3]`` of the size `shape` (H, W)."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if pixels.shape[:2] != shape:
        pixels = np.asarray(cv2.resize(pixels, shape[::-1]), np.uint8)
    return pixels
