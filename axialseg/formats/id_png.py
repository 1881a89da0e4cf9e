"""PNGs whose colours are segment ids, as COCO and Cityscapes store panoptic segmentations.

Source: `rgb2id` and `id2rgb` of cocodataset/panopticapi: id = R + 256 G + 65536 B, 0 is void.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.damaged_image import image_reading
from axialseg.formats.plain_image import PNG_SIGNATURE, decode_plain_png
from axialseg.formats.whole_file import read_file

ID_LIMIT = 256**3
TURNED = ", or the image's Exif data turn it, and data.apply_exif=true does so too"


def read_id_png(path: Path, listed: NDArray[np.integer] | None = None) -> NDArray[np.int32]:
    """Reads a PNG of ids, int32 ``[H, W]``.

    Tools that shrink PNGs, or have few ids, write grey or palette images. A grey value or a place
    in the palette is then the id itself; where the ids are known and are others, the colour is.

    Args:
        path: the file.
        listed: ids that the image's segments have, ``[S]``; decides between the two.

    Raises:
        UserError: the file is missing, damaged or no PNG of ids.
    """
    with image_reading(path, "the panoptic PNGs"):
        content = read_file(path)
        pixels = decode_plain_png(content)
        if pixels is not None:
            return ids_from_rgb(pixels)
        with Image.open(BytesIO(content)) as image:
            if image.mode in ("RGB", "RGBA"):
                if content.startswith(PNG_SIGNATURE) and content[24] == 16:
                    raise UserError(
                        f"{path} has 16 bits a colour, of which ids have 8; write the panoptic "
                        "PNGs anew with 8-bit colours (uint8, not uint16)."
                    )
                return ids_from_rgb(np.asarray(image))
            ids = _ids_from_values(image, listed)
            if ids is None:
                raise UserError(
                    f"{path} is not a panoptic id PNG (its pixels are {image.mode}, not RGB, and "
                    "hold other ids than are listed); give the folder of the panoptic PNGs."
                )
            return ids


def _ids_from_values(
    image: Image.Image, listed: NDArray[np.integer] | None
) -> NDArray[np.int32] | None:
    """Ids ``[H, W]`` of a grey or palette image; None if it holds none that are listed."""
    if image.mode not in ("L", "P") and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image).astype(np.int32)
    if listed is None:
        return values
    known = np.append(listed, 0)
    if np.isin(values, known).all():
        return values
    colors = ids_from_rgb(np.asarray(image.convert("RGB")))
    return colors if np.isin(colors, known).all() else None


def check_size(
    path: Path, ids: NDArray[np.int32], image_file: str, image_size: tuple[int, int]
) -> None:
    """Raises a UserError if an id map ``[H, W]`` has another (height, width) than its image."""
    if ids.shape != tuple(image_size):
        raise UserError(
            f"{path} is {ids.shape[1]} x {ids.shape[0]} pixels but its image {image_file} is "
            f"{image_size[1]} x {image_size[0]}; both must come from the same version of the data "
            f"set{TURNED if ids.shape == tuple(image_size)[::-1] else ''}."
        )


def ids_from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Ids ``[...]`` of RGB (or RGBA) pixels ``[..., 3]``."""
    pixels = np.ascontiguousarray(rgb[..., :3]).reshape(-1, 3)
    ids = np.empty(len(pixels), np.int32)
    if len(pixels):
        # Four bytes from a pixel on are its R, G and B and the next pixel's R, which is no part.
        packed: NDArray[np.int32] = np.ndarray(len(ids) - 1, "<i4", pixels, strides=(3,))
        np.bitwise_and(packed, ID_LIMIT - 1, out=ids[:-1])
        ids[-1] = pixels[-1].astype(np.int32) @ (1, 256, 65536)
    return ids.reshape(rgb.shape[:-1])


def rgb_from_ids(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """RGB pixels ``[..., 3]`` of ids ``[...]`` in 0..2^24 - 1."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
