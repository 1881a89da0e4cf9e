"""One sentence for every way in which reading an image file can fail."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from PIL import Image, UnidentifiedImageError

from axialseg.errors import UserError

# What Pillow's and OpenCV's decoders raise for damaged files.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)


@contextmanager
def image_reading(path: Path, what: str) -> Iterator[None]:
    """Turns the exceptions of reading `path` into sentences.

    Args:
        path: the image file.
        what: is to be unpacked where it is missing, as "the images".

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; unpack {what} into {path.parent}.") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} cannot be read (it holds no image); it may be truncated: unpack or "
            "download it again."
        ) from error
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read ({reason or type(error).__name__}); it may be truncated: "
            "unpack or download it again."
        ) from error
