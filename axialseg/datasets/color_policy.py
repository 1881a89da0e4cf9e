"""AutoAugment's colour operations and the policy that the DeepLab recipes draw them from.

Source: Cubuk et al. 2019, "AutoAugment", as deeplab2 has it (data/preprocessing/
autoaugment_utils.py and autoaugment_policy.py). Checked against: its results for every operation,
equal in every bit, quirks included (`contrast` blends with grey that follows from the size of the
image). albumentations has no exact equivalent of the blending ones, so all are written out here.
Difference: the image is rounded to uint8 before, not truncated.

All operations map an image, uint8 ``[H, W, 3]`` RGB, to a new one of the same shape.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.transforms import DrawnColor
from axialseg.errors import UserError

Image = NDArray[np.uint8]
MAX_LEVEL = 10.0


def blend(degenerate: NDArray[np.generic], image: NDArray[np.uint8], factor: float) -> Image:
    """From `degenerate` (factor 0) to `image` (factor 1) and beyond, clipped and truncated."""
    if factor == 1.0:
        return image
    start = degenerate.astype(np.float32)
    mixed = start + np.float32(factor) * (image.astype(np.float32) - start)
    return mixed.clip(0, 255).astype(np.uint8)


def invert(image: Image) -> Image:
    """Negative."""
    return 255 - image


def solarize(image: Image, threshold: int) -> Image:
    """Negative of the values from `threshold` on; 256 is 0, for the original has it as a uint8."""
    levels = np.arange(256)
    return _look_up(image, np.where(levels < threshold % 256, levels, 255 - levels))


def posterize(image: Image, bits: int) -> Image:
    """Keeps the highest `bits` bits of each value, at least one."""
    shift = min(8 - bits, 7)
    return _look_up(image, np.arange(256) >> shift << shift)


def brightness(image: Image, factor: float) -> Image:
    """Blends with black."""
    levels = np.arange(256, dtype=np.uint8)
    return _look_up(image, blend(np.zeros(256), levels, factor))


def color(image: Image, factor: float) -> Image:
    """Blends with the grey image."""
    weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
    gray = (image.astype(np.float32) * np.float32(1 / 255)) @ weights
    gray = (gray * np.float32(255.5)).clip(0, 255).astype(np.uint8)
    return blend(gray[..., None], image, factor)


def contrast(image: Image, factor: float) -> Image:
    """Blends with uniform grey: a 256th of the number of pixels, at most 255.

    The original means the mean grey, but sums the histogram's counts. For images of more than
    65,000 pixels it so blends with white.
    """
    gray = min(image.shape[0] * image.shape[1] // 256, 255)
    levels = np.arange(256, dtype=np.uint8)
    return _look_up(image, blend(np.full(256, gray), levels, factor))


def sharpness(image: Image, factor: float) -> Image:
    """Blends with the smoothed image; the outermost pixels stay."""
    smooth = image.copy()
    if min(image.shape[:2]) > 2:
        # OpenCV rounds the last few columns of a row differently from those that it does in
        # blocks; with columns added the result does not depend on a pixel's place in the row.
        width = image.shape[1]
        wider = cv2.copyMakeBorder(image, 0, 0, 0, -width % 16, cv2.BORDER_REPLICATE)
        kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
        smoothed = cv2.filter2D(wider.astype(np.float32), -1, kernel)[1:-1, 1 : width - 1]
        smooth[1:-1, 1:-1] = smoothed.clip(0, 255).astype(np.uint8)
    return blend(smooth, image, factor)


def auto_contrast(image: Image) -> Image:
    """Stretches each channel from its own range to 0..255."""
    levels = np.arange(256, dtype=np.float32)
    tables = []
    for channel in range(3):
        low, high = (np.float32(f(image[..., channel])) for f in (np.min, np.max))
        scale = np.float32(255) / (high - low) if high > low else np.float32(1)
        offset = -low * scale if high > low else np.float32(0)
        tables.append((levels * scale + offset).clip(0, 255).astype(np.uint8))
    return _look_up(image, np.stack(tables, 1))


def equalize(image: Image) -> Image:
    """Spreads each channel's values so that their histogram is about flat."""
    tables = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        last = counts[counts > 0][-1]
        step = (counts.sum() - last) // 255
        if step == 0:
            tables.append(np.arange(256))
        else:
            below = np.concatenate(([0], np.cumsum(counts)[:-1]))
            table = (below + step // 2) // step
            table[0] = 0
            tables.append(table.clip(0, 255))
    return _look_up(image, np.stack(tables, 1))


def _look_up(image: Image, table: NDArray[np.generic]) -> Image:
    """Replaces each value by a table's entry, ``[256]`` or ``[256, 3]``."""
    if table.ndim == 1:
        table = np.repeat(table[:, None], 3, axis=1)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)


class Operation(NamedTuple):
    """An operation as policies name it.

    Attributes:
        change: (image, level 0..10) -> image.
        margin: pixels around a window that its result there depends on; None: the whole image.
    """

    change: Callable[[Image, float], Image]
    margin: int | None


def _factor(level: float) -> float:
    """Level -> factor of the blending operations, 0.1..1.9; 1 is the image itself."""
    return level / MAX_LEVEL * 1.8 + 0.1


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(lambda image, level: auto_contrast(image), None),
    "Equalize": Operation(lambda image, level: equalize(image), None),
    "Invert": Operation(lambda image, level: invert(image), 0),
    "Posterize": Operation(lambda image, level: posterize(image, int(level / MAX_LEVEL * 4)), 0),
    "Solarize": Operation(lambda image, level: solarize(image, int(level / MAX_LEVEL * 256)), 0),
    "Color": Operation(lambda image, level: color(image, _factor(level)), 0),
    "Contrast": Operation(lambda image, level: contrast(image, _factor(level)), None),
    "Brightness": Operation(lambda image, level: brightness(image, _factor(level)), 0),
    "Sharpness": Operation(lambda image, level: sharpness(image, _factor(level)), 1),
}

# deeplab2's `simple_classification_policy`: (operation, probability, level), two to a sub-policy.
SIMPLE_CLASSIFICATION_POLICY = (
    (("Sharpness", 0.4, 7), ("Brightness", 0.2, 10)),
    (("Equalize", 0.0, 9), ("Contrast", 0.2, 10)),
    (("Sharpness", 0.2, 9), ("Color", 0.2, 9)),
    (("Solarize", 0.2, 7), ("Equalize", 0.6, 9)),
    (("Sharpness", 0.2, 1), ("Equalize", 0.2, 7)),
)


class ColorPolicy:
    """Draws a sub-policy; each of its operations then fires with its own probability."""

    def __init__(
        self,
        magnitude_scale: float = 1.0,
        sub_policies: Sequence[Sequence[tuple[str, float, float]]] = SIMPLE_CLASSIFICATION_POLICY,
    ) -> None:
        """Keeps the operations' names.

        Args:
            magnitude_scale: all levels are multiplied by it (0.2 for most DeepLab recipes).
            sub_policies: lists of (name in `OPERATIONS`, probability, level 0..10).

        Raises:
            UserError: a name is unknown.
        """
        self.sub_policies = [
            [
                (name, probability, level * magnitude_scale)
                for name, probability, level in sub_policy
            ]
            for sub_policy in sub_policies
        ]
        for name in (name for sub_policy in sub_policies for name, *_ in sub_policy):
            if name not in OPERATIONS:
                raise UserError(
                    f"data.train_transform.color.sub_policies names the operation '{name}'; "
                    f"use one of {', '.join(OPERATIONS)}."
                )

    def __call__(self, rng: Generator) -> DrawnColor:
        """Draws the operations for one image."""
        sub_policy = self.sub_policies[int(rng.integers(len(self.sub_policies)))]
        fired = [
            (OPERATIONS[name], level)
            for name, probability, level in sub_policy
            if rng.random() < probability
        ]

        def change(image: Image) -> Image:
            for operation, level in fired:
                image = operation.change(image, level)
            return image

        margins = [operation.margin for operation, _ in fired]
        return DrawnColor(change, None if None in margins else sum(filter(None, margins)))
