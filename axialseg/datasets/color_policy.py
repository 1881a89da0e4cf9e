"""AutoAugment's colour operations and the policy that the DeepLab recipes draw them from.

Source: Cubuk et al. 2019, "AutoAugment", as deeplab2 has it (data/preprocessing/
autoaugment_utils.py and autoaugment_policy.py). Checked against: its results for every operation,
equal in every bit, quirks included (the grey of `contrast` follows from the size of the image).
albumentations has no exact equivalent of the operations that blend, so all are written out here.
Difference: the image is rounded to uint8 before the operations, not truncated.

All operations map an image, uint8 ``[H, W, 3]`` RGB, to a new one of the same shape.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.resampling import ScaledImage
from axialseg.datasets.transforms import DrawnColor
from axialseg.errors import UserError

Image = NDArray[np.uint8]
Table = NDArray[np.uint8]
"""What each value becomes: ``[256]`` in all channels, or ``[256, 3]``."""
MAX_LEVEL = 10.0
LEVELS = np.arange(256)
STRIP_ROWS = 32  # float copies of so many rows stay in the processor's cache
COUNTED_PIXELS = 1 << 24  # OpenCV counts in float32


class Histogram:
    """How often each value occurs in an image; counted when it is first needed."""

    def __init__(self, pixels: int, count: Callable[[], NDArray[np.int64]]) -> None:
        """Keeps the parts.

        Args:
            pixels: height times width.
            count: gives the counts.
        """
        self.pixels = pixels
        self._count = count

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pixels of each value, int64 ``[256, 3]``."""
        return self._count()

    def after(self, table: Table) -> "Histogram":
        """The histogram of the image in which a table has replaced the values."""

        def count() -> NDArray[np.int64]:
            counts = np.zeros((256, 3), np.int64)
            for channel, column in enumerate(_columns(table)):
                np.add.at(counts[:, channel], column, self.counts[:, channel])
            return counts

        return Histogram(self.pixels, count)


def histogram_of(image: Image) -> Histogram:
    """The histogram of an image."""
    height, width = image.shape[:2]
    rows = max(COUNTED_PIXELS // width, 1)

    def count() -> NDArray[np.int64]:
        counts = np.zeros((256, 3), np.int64)
        for top in range(0, height, rows):
            strip = image[top : top + rows]
            for channel in range(3):
                found = cv2.calcHist([strip], [channel], None, [256], [0, 256])
                counts[:, channel] += found.ravel().astype(np.int64)
        return counts

    return Histogram(height * width, count)


def blend(degenerate: NDArray[np.generic], image: NDArray[np.uint8], factor: float) -> Image:
    """From `degenerate` (factor 0) to `image` (factor 1) and beyond, clipped and truncated."""
    if factor == 1.0:
        return image
    start = degenerate.astype(np.float32)
    mixed = image.astype(np.float32)
    mixed -= start
    mixed *= np.float32(factor)
    mixed += start
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


# Operations that are a table: (histogram, level 0..10) -> table.


def invert(histogram: Histogram, level: float) -> Table:
    """Negative."""
    return np.flip(LEVELS).astype(np.uint8)


def solarize(histogram: Histogram, level: float) -> Table:
    """Inverts values from a threshold on; 256 becomes 0, as in the original, which uses uint8."""
    threshold = int(level / MAX_LEVEL * 256) % 256
    return np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8)


def posterize(histogram: Histogram, level: float) -> Table:
    """Keeps the highest bits of each value, at least one."""
    shift = min(8 - int(level / MAX_LEVEL * 4), 7)
    return (LEVELS >> shift << shift).astype(np.uint8)


def brightness(histogram: Histogram, level: float) -> Table:
    """Blends with black."""
    return blend(np.zeros(256), LEVELS.astype(np.uint8), _factor(level))


def contrast(histogram: Histogram, level: float) -> Table:
    """Blends with uniform grey: a 256th of the number of pixels, at most 255.

    The original should take the mean grey, but it sums the histogram's counts. So it blends images
    of more than 65,000 pixels with white.
    """
    gray = min(histogram.pixels // 256, 255)
    return blend(np.full(256, gray), LEVELS.astype(np.uint8), _factor(level))


def auto_contrast(histogram: Histogram, level: float) -> Table:
    """Stretches each channel from its own range to 0..255."""
    tables = []
    for counts in histogram.counts.T:
        seen = np.flatnonzero(counts)
        low, high = np.float32(seen[0]), np.float32(seen[-1])
        scale = np.float32(255) / (high - low) if high > low else np.float32(1)
        offset = -low * scale if high > low else np.float32(0)
        stretched = LEVELS.astype(np.float32) * scale + offset
        tables.append(stretched.clip(0, 255).astype(np.uint8))
    return np.stack(tables, 1)


def equalize(histogram: Histogram, level: float) -> Table:
    """Spreads each channel's values so that their histogram is about flat."""
    tables = []
    for counts in histogram.counts.T:
        last = counts[counts > 0][-1]
        step = (counts.sum() - last) // 255
        if step == 0:
            tables.append(LEVELS)
        else:
            below = np.concatenate(([0], np.cumsum(counts)[:-1]))
            table = (below + step // 2) // step
            table[0] = 0
            tables.append(table.clip(0, 255))
    return np.stack(tables, 1).astype(np.uint8)


# Operations that mix values: (image, level 0..10) -> image.


def color(image: Image, level: float) -> Image:
    """Blends with the grey image."""
    weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
    changed = np.empty_like(image)
    for top in range(0, len(image), STRIP_ROWS):
        strip = image[top : top + STRIP_ROWS]
        gray = (strip.astype(np.float32) * np.float32(1 / 255)) @ weights
        gray = (gray * np.float32(255.5)).clip(0, 255).astype(np.uint8)
        changed[top : top + STRIP_ROWS] = blend(gray[..., None], strip, _factor(level))
    return changed


def sharpness(image: Image, level: float) -> Image:
    """Blends with the smoothed image; the outermost pixels stay."""
    changed = image.copy()
    height, width = image.shape[:2]
    if min(height, width) <= 2:
        return changed
    # OpenCV rounds the last few columns of a row differently from those that it does in
    # blocks; with columns added the result does not depend on a pixel's place in the row.
    wider = cv2.copyMakeBorder(image, 0, 0, 0, -width % 16, cv2.BORDER_REPLICATE)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
    for top in range(1, height - 1, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height - 1)
        strip = cv2.filter2D(wider[top - 1 : bottom + 1].astype(np.float32), -1, kernel)
        smooth = strip[1:-1, 1 : width - 1].astype(np.uint8)  # a mean: at most about 255
        inside = image[top:bottom, 1 : width - 1]
        changed[top:bottom, 1 : width - 1] = blend(smooth, inside, _factor(level))
    return changed


def _factor(level: float) -> float:
    """Level -> factor of the blending operations, 0.1..1.9; 1 is the image itself."""
    return level / MAX_LEVEL * 1.8 + 0.1


def look_up(image: Image, table: Table) -> Image:
    """Replaces each value by a table's entry."""
    entries = table[None] if table.ndim == 2 else table[None, :, None]
    return np.asarray(cv2.LUT(image, np.ascontiguousarray(entries)), np.uint8)


def _columns(table: Table) -> Sequence[NDArray[np.uint8]]:
    """The table of each channel, ``[256]``."""
    return [table] * 3 if table.ndim == 1 else list(table.T)


class Operation(NamedTuple):
    """An operation as policies name it.

    Attributes:
        change: (image, level 0..10) -> image.
        margin: pixels around a window that its result there depends on; None: the whole image.
    """

    change: Callable[[Image, float], Image]
    margin: int | None


TABLES: dict[str, Callable[[Histogram, float], Table]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "Contrast": contrast,
    "Brightness": brightness,
}
OF_THE_WHOLE = ("AutoContrast", "Equalize", "Contrast")


def _by_table(image: Image, level: float, name: str) -> Image:
    return look_up(image, TABLES[name](histogram_of(image), level))


OPERATIONS: dict[str, Operation] = {
    **{
        name: Operation(partial(_by_table, name=name), None if name in OF_THE_WHOLE else 0)
        for name in TABLES
    },
    "Color": Operation(color, 0),
    "Sharpness": Operation(sharpness, 1),
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
    """Draws a sub-policy; each of its operations is then applied with its own probability."""

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
            (name, level) for name, probability, level in sub_policy if rng.random() < probability
        ]
        changes = [_at_level(name, level) for name, level in fired]
        margins = [OPERATIONS[name].margin for name, _ in fired]
        if None not in margins:
            return DrawnColor(partial(_one_by_one, changes), sum(filter(None, margins)))
        return DrawnColor(partial(_one_by_one, changes), None, partial(_for_window, fired))


def _at_level(name: str, level: float) -> Callable[[Image], Image]:
    change = OPERATIONS[name].change
    return lambda image: change(image, level)


def _one_by_one(changes: Sequence[Callable[[Image], Image]], image: Image) -> Image:
    for change in changes:
        image = change(image)
    return image


def _for_window(fired: Sequence[tuple[str, float]], scaled: ScaledImage) -> DrawnColor:
    """Operations whose tables follow from the whole image, each reduced to what a window needs.

    Args:
        fired: names and levels of the operations, in order.
        scaled: the whole image.
    """
    height, width = scaled.size
    histogram = Histogram(height * width, partial(_counts, [], scaled))
    changes: list[Callable[[Image], Image]] = []
    margin = 0
    for name, level in fired:
        if name in TABLES:
            table = TABLES[name](histogram, level)
            changes.append(partial(_look_up_in, table))
            histogram = histogram.after(table)
        else:
            changes.append(_at_level(name, level))
            margin += OPERATIONS[name].margin or 0
            histogram = Histogram(height * width, partial(_counts, list(changes), scaled))
    return DrawnColor(partial(_one_by_one, changes), margin)


def _counts(changes: Sequence[Callable[[Image], Image]], scaled: ScaledImage) -> NDArray[np.int64]:
    """How often each value occurs in the whole image after some changes, int64 ``[256, 3]``."""
    return histogram_of(_one_by_one(changes, scaled.pixels)).counts


def _look_up_in(table: Table, image: Image) -> Image:
    return look_up(image, table)
