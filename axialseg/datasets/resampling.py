"""Windows of resized images, without resizing the whole.

All resizing is align-corners, as in TensorFlow's `tf.compat.v1.image.resize(align_corners=True)`:
pixel i of n samples the source at ``i * (source - 1) / (n - 1)``, computed in float32. A window
samples at those same places, so it equals that window of the fully resized image, border included.
"""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", np.uint8, np.float32)


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
        rows: float32 ``[h]``, within 0 .. H - 1.
        columns: float32 ``[w]``, within 0 .. W - 1.

    Returns:
        ``[h, w, 3]``.
    """
    shape = len(rows), len(columns)
    map_x = np.ascontiguousarray(np.broadcast_to(columns, shape))
    map_y = np.ascontiguousarray(np.broadcast_to(rows[:, None], shape))
    # remap in OpenCV 5 interpolates exactly; in OpenCV 4 it rounds positions to 1/32 pixel.
    samples = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(samples, image.dtype)


def resample_ids(
    id_map: NDArray[np.int32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Nearest samples (halves up) of ids ``[H, W]`` at rows ``[h]``, columns ``[w]``."""
    # In float64 adding a half is exact, so that no value just below a half is rounded up.
    nearest_rows = np.floor(rows.astype(np.float64) + 0.5).astype(np.intp)
    nearest_columns = np.floor(columns.astype(np.float64) + 0.5).astype(np.intp)
    return id_map.take(nearest_rows, axis=0).take(nearest_columns, axis=1)
