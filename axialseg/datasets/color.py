"""Colour augmentation: the one file that talks to albumentations, and owns its seeding.

albumentations 2.0.8 keeps a random state per transform that every loader worker copies, so that
all workers draw the same and each epoch repeats the last. Here every image is seeded anew.
"""

import os

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.transforms import DrawnColor

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its version

import albumentations


class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order."""

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.05,
    ) -> None:
        """Keeps the strengths.

        Args:
            brightness: factor drawn from 1 - b .. 1 + b.
            contrast: factor drawn from 1 - c .. 1 + c.
            saturation: factor drawn from 1 - s .. 1 + s.
            hue: shift drawn from -h .. h turns.
        """
        self._jitter = albumentations.Compose(
            [
                albumentations.ColorJitter(
                    brightness=(1 - brightness, 1 + brightness),
                    contrast=(1 - contrast, 1 + contrast),
                    saturation=(1 - saturation, 1 + saturation),
                    hue=(-hue, hue),
                    p=1.0,
                )
            ]
        )

        # Contrast is about the mean of the whole image.
        self._margin = None if contrast > 0 else 0

    def __call__(self, rng: Generator) -> DrawnColor:
        """Draws a seed for the strengths and their order."""
        seed = int(rng.integers(2**31))

        def change(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            self._jitter.set_random_seed(seed)
            return self._jitter(image=image)["image"]

        return DrawnColor(change, self._margin)
