"""Augment, scale, colour, crop, pad and flip: from a sample to what fits in a batch.

Source: deeplab2 data/preprocessing (`input_preprocessing.py`, `preprocess_utils.py`). Differences:
the random window is chosen first and only it is sampled, once, straight from the original image
(deeplab2 resizes to range, then scales, then crops); images stay uint8, at most half a grey level
off; padding is 127 with a mask of valid pixels, because the model sets padding to exactly 0.
Colours are changed as if on the whole scaled image: where a change needs more than the window, as
much more is sampled, up to the whole.

Transforms of albumentations come first, on the image as it is stored: a rotation then finds the
pixels around the later crop, a size may change, and lengths in pixels mean the same at any scale.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.augmentation import OUTSIDE, Augmentation
from axialseg.datasets.resampling import (
    ScaledImage,
    resample_ids,
    resample_image,
    source_positions,
)
from axialseg.datasets.sample import PanopticSample
from axialseg.panoptic.panoptic_map import PanopticSegments

PAD_VALUE = 127


class DrawnColor(NamedTuple):
    """A change of colours whose random choices are made.

    Attributes:
        change: uint8 ``[h, w, 3]`` RGB -> the same; leaves its argument alone.
        margin: pixels around a window that the result there depends on; None: the whole image.
        for_window: optional, for a margin of None: looks at the whole image and returns the same
            change with a margin, so that only the window has to be changed.
    """

    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    margin: int | None
    for_window: Callable[[ScaledImage], "DrawnColor"] | None = None


ColorTransform = Callable[[Generator], DrawnColor]


class PreparedImage(NamedTuple):
    """An image as the net gets it, padded.

    Attributes:
        image: uint8 ``[h, w, 3]``, RGB.
        valid: bool ``[h, w]``, False at padding.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]


class TrainingCrop(NamedTuple):
    """A random window of a sample; padding is void.

    Attributes:
        image: uint8 ``[h, w, 3]``, RGB.
        valid: bool ``[h, w]``, False at padding.
        segments: ground truth ``[h, w]``; segments outside the window keep their table rows.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    segments: PanopticSegments


def scale_candidates(smallest: float, largest: float) -> NDArray[np.float32]:
    """Scale factors that a recipe draws from, float32 ``[n]``, about 0.1 apart, ends included.

    The numbers are float32 in deeplab2. So there may be one value fewer than expected: 15 for
    0.5..2.0, 10 for 0.5..1.5 (but 15 for 0.3..1.7).
    """
    smallest, largest, step = (float(np.float32(value)) for value in (smallest, largest, 0.1))
    count = int((largest - smallest) / step + 1)
    return np.linspace(smallest, largest, count).astype(np.float32)


def scaled_size(height: int, width: int, scale: np.float32) -> tuple[int, int]:
    """Size times scale, truncated, computed in float32."""
    return int(np.float32(height) * scale), int(np.float32(width) * scale)


def range_size(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """Size after resizing so that the shorter side is `shorter`, then the longer at most `longer`.

    Both steps keep the aspect ratio and truncate, the second from the result of the first.
    """
    scale = np.float32(shorter) / np.float32(min(height, width))
    height, width = scaled_size(height, width, scale)
    if max(height, width) > longer:
        scale = np.float32(longer) / np.float32(max(height, width))
        height, width = scaled_size(height, width, scale)
    return height, width


class TrainTransform:
    """[transforms] -> [resize to range] -> random scale -> colour -> pad or crop -> flip."""

    def __init__(
        self,
        crop_size: Sequence[int],
        min_scale: float,
        max_scale: float,
        resize_range: Sequence[int] | None = None,
        flip_probability: float = 0.5,
        color: ColorTransform | None = None,
        transforms: Sequence[Any] = (),
    ) -> None:
        """Keeps the settings.

        Args:
            crop_size: (height, width) of the result, in pixels.
            min_scale: smallest scale factor.
            max_scale: largest scale factor.
            resize_range: (shorter, longer) side before the random scale, see `range_size`; None
                starts from the original size.
            flip_probability: rate of left-right flips.
            color: draws a change of colours for the scaled image; None changes none.
            transforms: of albumentations, for the image as it is stored, see `Augmentation`.
        """
        self.height, self.width = crop_size
        self.scale_range = (min_scale, max_scale)
        self.scales = scale_candidates(*self.scale_range)
        self.resize_range = None if resize_range is None else tuple(resize_range)
        self.flip_probability = flip_probability
        self.color = color
        self.augmentation = Augmentation(transforms) if transforms else None

    def at_half_scale(self) -> "TrainTransform":
        """The same with half the scale factors, for images that are pasted onto others."""
        smallest, largest = self.scale_range
        half = copy.copy(self)
        half.scale_range = (smallest / 2, largest / 2)
        half.scales = scale_candidates(*half.scale_range)
        return half

    def __call__(self, sample: PanopticSample, rng: Generator) -> TrainingCrop:
        """Draws one crop of a sample that has ground truth; all chance comes from `rng`."""
        assert sample.segments is not None
        source, source_ids = sample.image, sample.segments.id_map
        if self.augmentation is not None:
            source, source_ids = self.augmentation(source, source_ids, rng)
        source_height, source_width = source_ids.shape
        size = source_height, source_width
        if self.resize_range is not None:
            size = range_size(*size, *self.resize_range)
        height, width = scaled_size(*size, rng.choice(self.scales))
        height, width = max(height, 1), max(width, 1)
        top, row_start, window_height = _random_window(height, self.height, rng)
        left, column_start, window_width = _random_window(width, self.width, rng)
        is_flipped = rng.random() < self.flip_probability
        color = None if self.color is None else self.color(rng)

        scaled = ScaledImage(source, (height, width))
        rows = slice(row_start, row_start + window_height)
        columns = slice(column_start, column_start + window_width)
        window = (
            scaled.window(rows, columns)
            if color is None
            else _colored(scaled, rows, columns, color)
        )
        ids = resample_ids(
            source_ids,
            source_positions(source_height, height, row_start, window_height),
            source_positions(source_width, width, column_start, window_width),
        )
        if is_flipped:
            # cv2.flip is as fast as a copy; reading backwards by indices is slower.
            window = np.asarray(cv2.flip(window, 1), np.uint8)
            ids = np.asarray(cv2.flip(ids, 1), np.int32)
            left = self.width - left - window_width

        if ids.shape == (self.height, self.width):
            image, valid, id_map = window, np.ones(ids.shape, bool), ids
        else:
            image, valid = _pad(window, top, left, self.height, self.width)
            id_map = np.zeros((self.height, self.width), np.int32)
            id_map[top : top + window_height, left : left + window_width] = ids
        if self.augmentation is not None:
            is_outside = id_map == OUTSIDE
            image[is_outside], valid[is_outside], id_map[is_outside] = PAD_VALUE, False, 0
        return TrainingCrop(image, valid, sample.segments._replace(id_map=id_map))


class EvalTransform:
    """[resize to range] -> pad at the bottom and the right; ground truth is left as it is."""

    def __init__(
        self, crop_size: Sequence[int], stride: int = 32, resize_range: Sequence[int] | None = None
    ) -> None:
        """Keeps the settings.

        Args:
            crop_size: smallest (height, width) of the result, in pixels.
            stride: a longer side is padded to the next ``k * stride + 1``.
            resize_range: (shorter, longer) side, see `range_size`; None keeps the original size.
        """
        self.height, self.width = crop_size
        self.stride = stride
        self.resize_range = None if resize_range is None else tuple(resize_range)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[PreparedImage, tuple[int, int]]:
        """Prepares one image, uint8 ``[H, W, 3]``; the second result is its size before padding."""
        size = height, width = image.shape[:2]
        if self.resize_range is not None:
            size = range_size(height, width, *self.resize_range)
        if size != (height, width):
            rows = source_positions(height, size[0], 0, size[0])
            columns = source_positions(width, size[1], 0, size[1])
            image = resample_image(image, rows, columns)
        padded_height = self._padded(size[0], self.height)
        padded_width = self._padded(size[1], self.width)
        return PreparedImage(*_pad(image, 0, 0, padded_height, padded_width)), size

    def _padded(self, length: int, crop: int) -> int:
        """Side after padding: the crop's, or the next ``k * stride + 1`` if that is too short."""
        return crop if length <= crop else -(-(length - 1) // self.stride) * self.stride + 1


def _random_window(length: int, crop: int, rng: Generator) -> tuple[int, int, int]:
    """Along one axis: (offset in the crop, first pixel taken, pixels taken).

    A short image is put at a random place, a long one cut at a random place. As in deeplab2 the
    padding offset is always smaller than the margin, so it is 0 for a margin of one pixel.
    """
    offset = int(rng.integers(max(crop - length, 1)))
    start = int(rng.integers(max(length - crop, 0) + 1))
    return offset, start, min(length, crop)


def _colored(
    scaled: ScaledImage, rows: slice, columns: slice, color: DrawnColor
) -> NDArray[np.uint8]:
    """A window of an image whose colours are changed as a whole."""
    is_all = (rows.stop - rows.start, columns.stop - columns.start) == scaled.size
    if color.margin is None and color.for_window is not None and not is_all:
        color = color.for_window(scaled)
    taken = [
        _widen(window, size, color.margin)
        for window, size in zip((rows, columns), scaled.size, strict=True)
    ]
    changed = color.change(scaled.window(*taken))
    top, left = rows.start - taken[0].start, columns.start - taken[1].start
    return changed[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]


def _widen(window: slice, size: int, margin: int | None) -> slice:
    """A window of an axis with a margin, inside the axis; None is all of it."""
    if margin is None:
        return slice(0, size)
    return slice(max(window.start - margin, 0), min(window.stop + margin, size))


def _pad(
    window: NDArray[np.uint8], top: int, left: int, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Puts ``[h, w, 3]`` into an image of the given size; also says which pixels are its own."""
    bottom, right = top + window.shape[0], left + window.shape[1]
    image = np.full((height, width, 3), PAD_VALUE, np.uint8)
    image[top:bottom, left:right] = window
    valid = np.zeros((height, width), bool)
    valid[top:bottom, left:right] = True
    return image, valid
