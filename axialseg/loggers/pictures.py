"""Pictures for the loggers that can show them: W&B and TensorBoard."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

LARGEST_CLASS = 255  # of a mask that W&B shows


class MaskedImage(NamedTuple):
    """An image with class maps that a viewer can lay over it, one by one.

    Attributes:
        name: the image's.
        image: uint8 ``[H, W, 3]``.
        masks: name -> class ids, int ``[H, W]``; one that some images lack is not shown.
    """

    name: str
    image: NDArray[np.uint8]
    masks: Mapping[str, NDArray[Any]]


def shows_pictures(trainer: pl.Trainer) -> bool:
    """Whether a logger is there that `log_pictures` tells."""
    return any(isinstance(one, WandbLogger | TensorBoardLogger) for one in trainer.loggers)


def log_pictures(trainer: pl.Trainer, key: str, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Logs pictures at the trainer's step; call it on rank 0.

    Args:
        trainer: whose loggers are told.
        key: of the pictures, as ``val/images``.
        pictures: name -> uint8 ``[H, W, 3]``.
    """
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, _of_one_size(pictures.values()), step, caption=list(pictures))
        elif isinstance(logger, TensorBoardLogger):
            for name, picture in pictures.items():
                logger.experiment.add_image(f"{key}/{name}", picture, step, dataformats="HWC")


def _of_one_size(arrays: Iterable[NDArray[Any]], value: int = 0) -> list[NDArray[Any]]:
    """Padded with a value at the bottom and the right: W&B distorts images of different sizes."""
    arrays = list(arrays)
    height, width = (max(array.shape[axis] for array in arrays) for axis in (0, 1))
    padded = []
    for array in arrays:
        full = np.full((height, width, *array.shape[2:]), value, array.dtype)
        full[: array.shape[0], : array.shape[1]] = array
        padded.append(full)
    return padded


def log_masks(
    trainer: pl.Trainer,
    key: str,
    images: Sequence[MaskedImage],
    class_names: Mapping[int, str],
    void: int,
) -> None:
    """Logs images with masks that can be switched on and off, where W&B logs.

    Args:
        trainer: whose loggers are told.
        key: of the images, as ``val/masks``.
        images: any number; their masks have class ids of `class_names` only.
        class_names: class id -> name. W&B has no ids above 255; with such ones nothing is logged.
        void: class id of what lies beside a smaller image.
    """
    labels = {**class_names, void: class_names.get(void, "void")}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and max(labels) <= LARGEST_CLASS:
            shown: Any = _wandb_images(images, labels, void)
            logger.log_metrics({key: shown}, trainer.global_step)


def _wandb_images(images: Sequence[MaskedImage], labels: dict[int, str], void: int) -> list[Any]:
    import wandb

    pixels = _of_one_size(one.image for one in images)
    kinds = {name: [one.masks.get(name) for one in images] for name in images[0].masks}
    masks = {
        name: _of_one_size((mask.astype(np.uint8) for mask in found if mask is not None), void)
        for name, found in kinds.items()
        if all(mask is not None for mask in found)
    }
    return [
        wandb.Image(
            image,
            caption=one.name,
            masks={
                name: {"mask_data": padded[number], "class_labels": labels}
                for name, padded in masks.items()
            },
        )
        for number, (one, image) in enumerate(zip(images, pixels, strict=True))
    ]
