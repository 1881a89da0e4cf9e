"""A picture of some validation images with their classes and what was guessed."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from PIL import Image
from torch import Tensor

from axialseg.datasets.image_classes import ImageClasses
from axialseg.loggers.pictures import log_pictures
from axialseg.machine.whole_file import whole_file
from axialseg.visualization.image_grid import GuessedImage, image_grid


class ClassificationImages(pl.Callback):
    """Draws images from all over each validation in one sheet, with true and guessed names.

    Written to `images/validation.png` in the folder of the run, over that of the validation before,
    and to W&B and TensorBoard if they log. Under several ranks these are images of rank 0.

    Args:
        count: number of images.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._guesses: list[GuessedImage] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a new set, evenly spaced: files are in the order of their classes."""
        self._guesses = []
        self._seen = 0
        images = -(-len(trainer.datamodule.val_dataset) // trainer.world_size)  # type: ignore[attr-defined]
        self._wanted = set(np.linspace(0, images - 1, min(self.count, images)).round().astype(int))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor,  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps those of the batch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        names = _classes(trainer).names
        for position in range(len(outputs)):
            if self._seen + position in self._wanted:
                probability, guess = outputs[position].softmax(0).max(0)
                label = int(batch["label"][position])
                self._guesses.append(
                    GuessedImage(
                        batch["image"][position].permute(1, 2, 0).cpu().numpy(),
                        names[label],
                        names[int(guess)],
                        float(probability),
                        int(guess) == label,
                    )
                )
        self._seen += len(outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the sheet."""
        if not self._guesses:
            return
        sheet = image_grid(self._guesses)
        path = Path(trainer.default_root_dir) / "images" / "validation.png"
        with whole_file(path) as draft:
            Image.fromarray(sheet).save(draft)
        log_pictures(trainer, "val/images", {"validation": sheet})


def _classes(trainer: pl.Trainer) -> ImageClasses:
    return trainer.datamodule.categories  # type: ignore[attr-defined]
