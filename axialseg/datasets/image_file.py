"""Reading photographs."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from axialseg.errors import UserError
from axialseg.formats.plain_image import decode_plain_image


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Reads an image of any colour type as RGB, uint8 ``[H, W, 3]``.

    The pixels are taken as stored: the orientation in the Exif data is not applied, for COCO's
    annotations are drawn on the stored pixels. Transparency is dropped, 16-bit grey is shortened.

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    try:
        content = path.read_bytes()
        pixels = decode_plain_image(content)
        if pixels is not None:
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        with Image.open(BytesIO(content)) as image:
            if image.mode.startswith("I;16"):
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; unpack the images into {path.parent}.") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} can not be read (it holds no image); it may be truncated: unpack or "
            "download it again."
        ) from error
    # Pillow's words for a damaged file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} can not be read ({error}); it may be truncated: unpack or download it again."
        ) from error
