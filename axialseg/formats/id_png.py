"""PNGs whose colours are segment ids, as COCO and Cityscapes store panoptic segmentations.

Source: `rgb2id` and `id2rgb` of cocodataset/panopticapi: id = R + 256 G + 65536 B, 0 is void.
"""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from axialseg.errors import UserError
from axialseg.formats.plain_image import decode_plain_png

ID_LIMIT = 256**3


def read_id_png(path: Path) -> NDArray[np.int32]:
    """Reads an RGB PNG of ids, int32 ``[H, W]``.

    Raises:
        UserError: the file is missing, damaged or no RGB image.
    """
    try:
        content = path.read_bytes()
        pixels = decode_plain_png(content)
        if pixels is not None:
            return _ids_from_bgr(pixels)
        with Image.open(BytesIO(content)) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise UserError(
                    f"{path} is no panoptic id PNG (its pixels are {image.mode}, not RGB); "
                    "give the folder of the panoptic PNGs."
                )
            return ids_from_rgb(np.asarray(image))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; unpack the panoptic PNGs into {path.parent}."
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} can not be read (it holds no image); it may be truncated: unpack or "
            "download it again."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for a damaged file
        raise UserError(
            f"{path} can not be read ({error}); it may be truncated: unpack or download it again."
        ) from error


def check_size(
    path: Path, ids: NDArray[np.int32], image_file: str, image_size: tuple[int, int]
) -> None:
    """Raises a UserError if an id map ``[H, W]`` has not the (height, width) of its image."""
    if ids.shape != tuple(image_size):
        raise UserError(
            f"{path} is {ids.shape[1]} x {ids.shape[0]} pixels but its image {image_file} is "
            f"{image_size[1]} x {image_size[0]}; both must come from the same version of the data "
            "set."
        )


def ids_from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Ids ``[H, W]`` of RGB (or RGBA) pixels ``[H, W, 3]``."""
    wide = rgb.astype(np.int32)
    ids: NDArray[np.int32] = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    return ids


def _ids_from_bgr(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Ids ``[H, W]`` of pixels in OpenCV's order, by the bytes of the id: R, G, B and one more."""
    ids = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGBA).view("<i4")[..., 0]
    ids &= ID_LIMIT - 1
    return np.asarray(ids, np.int32)


def rgb_from_ids(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """RGB pixels ``[..., 3]`` of ids ``[...]`` in 0..2^24 - 1."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
