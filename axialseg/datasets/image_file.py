"""Reading photographs."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from axialseg.formats.damaged_image import DAMAGE, image_reading
from axialseg.formats.plain_image import decode_plain_image
from axialseg.formats.whole_file import read_file

UPRIGHT = 1
ORIENTATION = 0x0112  # Exif tag: 1 is upright, 2..8 are turned or mirrored


def read_rgb(path: Path, apply_exif: bool = False) -> NDArray[np.uint8]:
    """Reads an image of any colour type as RGB, uint8 ``[H, W, 3]``.

    Transparency is dropped, 16-bit grey is shortened.

    Args:
        path: of the image.
        apply_exif: turns the pixels as the Exif data say; else they are taken as stored, for
            COCO's annotations are drawn on the stored pixels.

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    with image_reading(path, "the images"):
        return pixels_of(read_file(path), apply_exif)


def pixels_of(content: bytes, apply_exif: bool) -> NDArray[np.uint8]:
    """The same of a file's content that is at hand; raises as the decoders do."""
    pixels = _pixels(content)
    orientation = _orientation(content) if apply_exif else UPRIGHT
    if orientation == UPRIGHT:
        return pixels
    with Image.fromarray(pixels) as picture:
        picture.getexif()[ORIENTATION] = orientation
        return np.asarray(ImageOps.exif_transpose(picture))


def exif_orientation(path: Path, content: bytes | None = None) -> int:
    """How a viewer turns an image, by the Exif tag of that name; 1, upright, where there is none.

    Args:
        path: of the image.
        content: of the file, if it is at hand.

    Raises:
        UserError: the file is missing or no image.
    """
    with image_reading(path, "the images"):
        return _orientation(read_file(path) if content is None else content)


def _pixels(content: bytes) -> NDArray[np.uint8]:
    """The pixels of a file as stored."""
    pixels = decode_plain_image(content)
    if pixels is not None:
        return pixels
    with Image.open(BytesIO(content)) as image:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(content: bytes) -> int:
    """The Exif orientation, 1..8."""
    with Image.open(BytesIO(content)) as image:
        try:
            orientation = image.getexif().get(ORIENTATION, UPRIGHT)
        except DAMAGE:  # of the Exif data alone; the pixels may be whole
            return UPRIGHT
    return orientation if orientation in range(1, 9) else UPRIGHT
