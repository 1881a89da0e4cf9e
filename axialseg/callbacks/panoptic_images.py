"""Pictures of predictions beside their ground truth."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from axialseg.formats.coco_panoptic import below
from axialseg.inference.predict import PanopticPrediction
from axialseg.loggers.pictures import MaskedImage, log_masks, log_pictures, shows_pictures
from axialseg.machine.whole_file import whole_file
from axialseg.metrics.image_quality import image_quality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map
from axialseg.visualization.panoptic import comparison


class _Drawable(NamedTuple):
    """What a picture is made of; the arrays as of `comparison`."""

    pq: float
    name: str
    image: NDArray[np.uint8]
    truth: PanopticSegments | None
    predicted: PanopticSegments


class PanopticImages(pl.Callback):
    """Draws image | ground truth | prediction of the first images of each validation.

    Of an image without ground truth, image | prediction.

    Written to `images/<name of the image>.png` in the folder of the run, in folders as the images,
    over those of the validation before, and as ``val/images`` to W&B and TensorBoard if they log.
    W&B also gets ``val/masks``: the images with the classes of truth and prediction as masks. They
    are the same images at each validation; under several ranks, images of rank 0, unless all are
    drawn.

    The worst ones are in `images/worst/`, with the PQ of the image in their names.

    Args:
        count: number of images; None: all.
        worst: number of the images with the lowest PQ.
    """

    def __init__(self, count: int | None = 8, worst: int = 8) -> None:
        self.count = count
        self.worst = worst
        self._worst: list[_Drawable] = []
        self._names: set[str] = set()
        # For loggers that show pictures; not kept without one, because there may be many.
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        self._masked: list[MaskedImage] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a new set."""
        self._names, self._pictures, self._masked, self._worst = set(), {}, [], []

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
        if trainer.sanity_checking or (self.count is not None and not trainer.is_global_zero):
            return
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        for position, prediction in enumerate(outputs):
            shape = prediction.panoptic.shape
            truth = batch["segments"][position]
            is_first = self.count is None or len(self._names) < self.count
            if truth is None and not is_first:
                continue
            predicted = segments_from_panoptic_map(prediction.panoptic, categories.ignore_class)
            pq = 1.0 if truth is None else image_quality(segment_overlap(predicted, truth)).pq
            is_worst = truth is not None and trainer.is_global_zero and self._is_worst(pq)
            if not is_first and not is_worst:
                continue
            height, width = batch["resized_size"][position]
            image = _at_size(batch["image"][position, :, :height, :width], shape)
            drawable = _Drawable(
                pq,
                self._free_name(prediction.file_name, trainer.world_size),
                image,
                truth,
                predicted,
            )
            if is_first:
                self._draw(drawable, trainer)
            if is_worst:
                worst = sorted([*self._worst, drawable], key=lambda d: d.pq)
                self._worst = worst[: self.worst]

    def _is_worst(self, pq: float) -> bool:
        """Whether an image of this quality is among the worst so far."""
        return self.worst > 0 and (len(self._worst) < self.worst or pq < self._worst[-1].pq)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the worst ones, and tells the loggers."""
        if not self._names or not trainer.is_global_zero:
            return
        self._write_worst(Path(trainer.default_root_dir) / "images" / "worst", trainer)
        if not self._pictures:
            return
        log_pictures(trainer, "val/images", self._pictures)
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        names = {class_id: category.name for class_id, category in categories.by_class_id.items()}
        log_masks(trainer, "val/masks", self._masked, names, categories.ignore_class)

    def _draw(self, drawable: _Drawable, trainer: pl.Trainer) -> None:
        """Writes the picture of an image."""
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        picture = _picture(drawable, categories)
        file = Path(trainer.default_root_dir) / "images" / f"{drawable.name}.png"
        with whole_file(file) as draft:
            Image.fromarray(picture).save(draft)
        self._names.add(drawable.name)
        if shows_pictures(trainer):
            self._pictures[drawable.name] = picture
            self._masked.append(_masked(drawable, categories.ignore_class))

    def _write_worst(self, folder: Path, trainer: pl.Trainer) -> None:
        """Replaces the pictures of the worst images by those of this validation."""
        categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
        for older in folder.glob("PQ_*.png"):
            older.unlink()
        for drawable in self._worst:
            name = drawable.name.replace("/", "_")  # one folder, so that names sort by quality
            file = folder / f"PQ_{100 * drawable.pq:04.1f}_{name}.png"
            with whole_file(file) as draft:
                Image.fromarray(_picture(drawable, categories)).save(draft)

    def _free_name(self, file_name: str, ranks: int) -> str:
        """The image's name without its suffix; with it where another has the same, or may have."""
        name = below(file_name)
        stem = str(name.with_suffix(""))
        is_shared = self.count is None and ranks > 1  # the others' names are not known
        return str(name) if is_shared or stem in self._names else stem


def _picture(drawable: _Drawable, categories: Categories) -> NDArray[np.uint8]:
    """Image, ground truth and prediction side by side."""
    return comparison(drawable.image, drawable.truth, drawable.predicted, categories)


def _masked(drawable: _Drawable, void: int) -> MaskedImage:
    """The image with the classes of truth and prediction."""
    masks = {"prediction": drawable.predicted.semantic_map(void)}
    if drawable.truth is not None:
        masks["ground truth"] = drawable.truth.semantic_map(void)
    return MaskedImage(drawable.name, drawable.image, masks)


def _at_size(image: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An image uint8 ``[3, h, w]`` as uint8 ``[H, W, 3]`` of the size `shape` (H, W)."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if pixels.shape[:2] != shape:
        pixels = np.asarray(cv2.resize(pixels, shape[::-1]), np.uint8)
    return pixels
