"""Crops for classification: a random window for training, the middle for evaluation.

Sources: Szegedy et al. 2015, "Going deeper with convolutions", sec. 6 (area and shape of the
window); He et al. 2016, "Deep Residual Learning", sec. 3.4. Resizing is Pillow's bilinear filter,
which averages over all pixels that a smaller image leaves out, as the field's pipelines have it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from axialseg.datasets.augmentation import Augmentation
from axialseg.datasets.transforms import ColorTransform

TRIES = 10  # windows that are drawn until one lies inside the image


class RandomResizedCrop:
    """[transforms] -> random window -> the size of the batch -> random flip -> colour."""

    def __init__(
        self,
        crop_size: Sequence[int],
        min_area: float = 0.08,
        max_area: float = 1.0,
        min_ratio: float = 3 / 4,
        max_ratio: float = 4 / 3,
        flip_probability: float = 0.5,
        color: ColorTransform | None = None,
        transforms: Sequence[Any] = (),
    ) -> None:
        """Keeps the settings.

        Args:
            crop_size: (height, width) of the result, in pixels.
            min_area: smallest area of the window, as a share of the image's.
            max_area: largest area; areas in between are equally likely.
            min_ratio: smallest width / height of the window.
            max_ratio: largest; the logarithms in between are equally likely.
            flip_probability: rate of left-right flips.
            color: draws a change of colours; None changes none.
            transforms: of albumentations, for the image as it is stored, see `Augmentation`.
        """
        self.height, self.width = crop_size
        self.areas = min_area, max_area
        self.log_ratios = math.log(min_ratio), math.log(max_ratio)
        self.flip_probability = flip_probability
        self.color = color
        self.augmentation = Augmentation(transforms) if transforms else None

    def __call__(self, image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
        """Draws a crop uint8 ``[h, w, 3]`` of ``[H, W, 3]``; all chance comes from `rng`."""
        if self.augmentation is not None:
            image, _ = self.augmentation(image, np.zeros(image.shape[:2], np.int32), rng)
        top, left, height, width = self.window(image.shape[0], image.shape[1], rng)
        window = Image.fromarray(image[top : top + height, left : left + width])
        crop = np.asarray(window.resize((self.width, self.height), Image.Resampling.BILINEAR))
        if rng.random() < self.flip_probability:
            crop = crop[:, ::-1]
        if self.color is not None:
            crop = self.color(rng).change(np.ascontiguousarray(crop))
        return crop

    def window(self, height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
        """Draws a window (top, left, height, width) of an image of this size.

        If none of ten fits, it is the middle of the image, as large as the ratios allow.
        """
        for _ in range(TRIES):
            area = rng.uniform(*self.areas) * height * width
            ratio = math.exp(rng.uniform(*self.log_ratios))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(rng.integers(height - rows + 1))
                left = int(rng.integers(width - columns + 1))
                return top, left, rows, columns
        least, most = (math.exp(value) for value in self.log_ratios)
        rows = min(height, max(1, round(width / least)))
        columns = min(width, max(1, round(height * most)))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


class CenterCrop:
    """The middle of the image, resized so that the crop takes a given share of its shorter side."""

    def __init__(self, crop_size: Sequence[int], crop_share: float = 0.875) -> None:
        """Keeps the settings.

        Args:
            crop_size: (height, width) of the result, in pixels.
            crop_share: the crop's longer side as a share of the resized image's shorter one, in
                (0, 1]; 0.875 is 224 of 256.
        """
        self.height, self.width = crop_size
        self.shorter = round(max(crop_size) / crop_share)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Crops ``[H, W, 3]`` to uint8 ``[h, w, 3]``."""
        rows, columns = self.resized_size(image.shape[0], image.shape[1])
        resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
        top, left = self.corner(rows, columns)
        return np.asarray(resized)[top : top + self.height, left : left + self.width]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image of this size before it is cut; the longer side is floored."""
        shorter = min(height, width)
        rows, columns = (
            self.shorter if side == shorter else self.shorter * side // shorter
            for side in (height, width)
        )
        return rows, columns

    def corner(self, rows: int, columns: int) -> tuple[int, int]:
        """(top, left) of the crop in a resized image."""
        return round((rows - self.height) / 2), round((columns - self.width) / 2)

    def place(self, height: int, width: int, pixel: tuple[int, int]) -> tuple[int, int]:
        """Where a pixel of an image lies in its crop; outside of 0..h-1, 0..w-1 it is cut off.

        Args:
            height: of the image.
            width: of the image.
            pixel: (y, x) in the image.
        """
        resized = self.resized_size(height, width)
        row, column = (
            math.floor((at + 0.5) * new / old) - first
            for at, new, old, first in zip(
                pixel, resized, (height, width), self.corner(*resized), strict=True
            )
        )
        return row, column
