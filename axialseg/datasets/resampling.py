"""Windows of resized images, without resizing the whole.

All resizing is align-corners, as in TensorFlow's `tf.compat.v1.image.resize(align_corners=True)`:
pixel i of n samples the source at ``i * (source - 1) / (n - 1)``, computed in float32. A window
samples at those same places, so it equals that window of the fully resized image, border included.
"""

from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", np.uint8, np.float32)

STRIP_ROWS = 16


def source_positions(source: int, target: int, start: int, length: int) -> NDArray[np.float32]:
    """Where the target pixels of one axis sample the source, float32 ``[length]``.

    Args:
        source: pixels of the axis before resizing.
        target: pixels after resizing.
        start: first target pixel wanted.
        length: number of target pixels wanted.
    """
    scale = np.float32(source - 1) / np.float32(target - 1) if target > 1 else np.float32(source)
    return np.arange(start, start + length, dtype=np.float32) * scale


def resample_image(
    image: NDArray[Pixel], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[Pixel]:
    """Bilinear samples at every pair of a row and a column, in the image's own type.

    For uint8 the result is rounded: at most half a grey level from the float one.

    Args:
        image: uint8 or float32 ``[H, W, 3]``.
        rows: float32 ``[h]``, within 0 .. H - 1, ascending.
        columns: float32 ``[w]``, within 0 .. W - 1, ascending.

    Returns:
        ``[h, w, 3]``.
    """
    image, rows, columns = _needed(image, rows, columns)
    height, width = len(rows), len(columns)
    samples = np.empty((height, width, 3), image.dtype)
    # Four channels are remapped three times as fast as three.
    four_channels = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    # In strips whose coordinates stay in the processor's cache.
    count = min(STRIP_ROWS, height)
    strip = np.empty((count, width, 4), image.dtype)
    map_x = np.ascontiguousarray(np.broadcast_to(columns, (count, width)))
    map_y = np.empty_like(map_x)
    for top in range(0, height, count):
        part = slice(0, min(count, height - top))
        map_y[part] = rows[top : top + count, None]
        # remap in OpenCV 5 interpolates exactly; in OpenCV 4 it rounds positions to 1/32 pixel.
        cv2.remap(
            four_channels,
            map_x[part],
            map_y[part],
            cv2.INTER_LINEAR,
            dst=strip[part],
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.cvtColor(strip[part], cv2.COLOR_RGBA2RGB, dst=samples[top : top + count])
    return samples


def _needed(
    image: NDArray[Pixel], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> tuple[NDArray[Pixel], NDArray[np.float32], NDArray[np.float32]]:
    """The part of an image between which the samples lie, and their positions in it."""
    top, left = int(rows[0]), int(columns[0])
    part = image[top : int(rows[-1]) + 2, left : int(columns[-1]) + 2]
    # This is exact: a float32 minus a whole number that is not larger is a float32.
    return part, rows - np.float32(top), columns - np.float32(left)


class ScaledImage:
    """A resized image that computes only the parts that are asked for."""

    def __init__(self, source: NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Keeps the parts.

        Args:
            source: uint8 ``[H, W, 3]``.
            size: height and width after resizing.
        """
        self.source = source
        self.size = size

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """All of it, uint8 ``[h, w, 3]``."""
        return resample_image(
            self.source, *self._positions(slice(0, self.size[0]), slice(0, self.size[1]))
        )

    def window(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A part of it, with start and stop of both axes given."""
        if "pixels" in self.__dict__:
            return self.pixels[rows, columns]
        return resample_image(self.source, *self._positions(rows, columns))

    def _positions(self, *window: slice) -> list[NDArray[np.float32]]:
        return [
            source_positions(source, target, part.start, part.stop - part.start)
            for source, target, part in zip(self.source.shape, self.size, window, strict=False)
        ]


def resample_ids(
    id_map: NDArray[np.int32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Nearest samples (halves up) of ids ``[H, W]`` at rows ``[h]``, columns ``[w]``, ascending."""
    # In float64 adding a half is exact, so a value just below a half is not rounded up.
    nearest_rows = np.floor(rows.astype(np.float64) + 0.5).astype(np.intp)
    nearest_columns = np.floor(columns.astype(np.float64) + 0.5).astype(np.intp)
    # Columns are picked pixel by pixel, so they are picked where there are fewer rows.
    first, last = nearest_rows[0], nearest_rows[-1]
    if last - first < len(rows):
        window = id_map[first : last + 1].take(nearest_columns, axis=1)
        return window.take(nearest_rows - first, axis=0)
    return id_map.take(nearest_rows, axis=0).take(nearest_columns, axis=1)
