"""Transforms of albumentations, as a config lists them, on an image and the ids of its pixels.

albumentations 2.0.8 keeps random states that every loader worker copies, so that all workers draw
the same and each epoch repeats the last. Here every image has random states of its own.
"""

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.errors import UserError

# albumentations asks the network for its newest version when it is imported, which is later.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

OUTSIDE = -1
KEY = "data.train_transform.transforms"


class Augmentation:
    """A list of albumentations transforms, pixel-level or spatial; the size may change."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        """Joins the transforms. They are changed: each fills new borders of the ids with 0.

        Args:
            transforms: objects of albumentations, applied in this order.

        Raises:
            UserError: a member is no transform of albumentations.
        """
        import albumentations  # half a second, for those who list transforms

        kinds = albumentations.BasicTransform, albumentations.BaseCompose
        for number, transform in enumerate(transforms):
            if not isinstance(transform, kinds):
                raise UserError(
                    f"{KEY}.{number} is not a transform of albumentations but a "
                    f"{type(transform).__name__}; give a _target_ such as "
                    "albumentations.HorizontalFlip."
                )
        self.compose = albumentations.Compose(
            list(transforms),
            additional_targets={"is_inside": "mask"},
            mask_interpolation=cv2.INTER_NEAREST,
        )
        self.singles = list(_singles(self.compose))
        for single in self.singles:
            for value in ("fill_mask", "mask_drop_value"):
                # None leaves the ids under an erased patch as they are.
                if getattr(single, value, None) is not None:
                    setattr(single, value, 0)

    def __call__(
        self, image: NDArray[np.uint8], id_map: NDArray[np.int32], rng: Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Draws and applies the transforms; the arguments stay as they are.

        Args:
            image: uint8 ``[H, W, 3]``, RGB.
            id_map: int32 ``[H, W]``, 0 is void; ids below 2^24.
            rng: all chance comes from it.

        Returns:
            Image uint8 ``[h, w, 3]`` and ids int32 ``[h, w]``, `OUTSIDE` where a pixel is not from
            the image.

        Raises:
            UserError: a transform fails, or its image is not uint8 ``[h, w, 3]``.
        """
        # One state for all: with a seed for each, all transforms would draw the same numbers.
        self.compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return _applied(self.compose, image, id_map, "")

    def check(self, image: NDArray[np.uint8]) -> None:
        """Applies each transform once to an image, however rarely it is drawn.

        Raises:
            UserError: see `__call__`; names the transform.
        """
        id_map = np.ones(image.shape[:2], np.int32)
        for single in self.singles:
            single.set_random_state(np.random.default_rng(0), random.Random(0))
            _applied(single, image, id_map, f"albumentations.{type(single).__name__} ")


def _singles(transform: Any) -> Iterator[Any]:
    """The transforms in a composition, in order."""
    if hasattr(transform, "transforms"):
        for member in transform.transforms:
            yield from _singles(member)
    else:
        yield transform


def _applied(
    transform: Any, image: NDArray[np.uint8], id_map: NDArray[np.int32], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    try:
        result = transform(
            force_apply=True,
            image=image.copy(),
            mask=id_map.astype(np.float32),  # the one type that holds ids and that all can change
            is_inside=np.ones(id_map.shape, np.uint8),
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{KEY}: {name}cannot be applied: {reason}") from error
    changed, ids = result["image"], result["mask"]
    if getattr(changed, "dtype", None) != np.uint8 or changed.shape[2:] != (3,):
        raise UserError(
            f"{KEY}: {name}turns the image into another type; it must stay uint8 [h, w, 3]. Leave "
            "out what normalises or makes tensors: the model does that."
        )
    return changed, np.where(result["is_inside"] == 1, ids, OUTSIDE).astype(np.int32)
