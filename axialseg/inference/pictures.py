"""Pictures in any form in which Python users hold them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from axialseg.datasets.image_file import read_rgb
from axialseg.errors import UserError

# A path; a picture of Pillow; an array [H, W, 3] or [H, W]; a tensor [3, H, W]. All RGB, uint8.
PictureLike = str | Path | Image.Image | NDArray[np.uint8] | torch.Tensor


class Picture(NamedTuple):
    """A picture and where it comes from.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, RGB.
        file_name: its path; empty if there is none.
    """

    pixels: NDArray[np.uint8]
    file_name: str = ""


def as_picture(image: PictureLike | Picture) -> Picture:
    """One picture from any form; photographs are turned upright by their Exif data.

    Raises:
        UserError: a file is missing or damaged.
        TypeError: the image is of another kind, or its numbers are no uint8.
        ValueError: the shape is another one.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if not path.is_file():
            raise UserError(f"the picture {path} does not exist; correct its name")
        return Picture(read_rgb(path, apply_exif=True), str(path))
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        name = getattr(image, "filename", "")
        return Picture(np.asarray(upright.convert("RGB")), str(name))
    if isinstance(image, torch.Tensor):
        is_right = image.ndim == 3 and image.shape[0] == 3
        return Picture(_pixels(image, is_right, "[3, H, W]").permute(1, 2, 0).numpy())
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        wide = torch.from_numpy(np.ascontiguousarray(image))
        is_right = image.ndim == 3 and image.shape[2] == 3
        return Picture(_pixels(wide, is_right, "[H, W, 3] or [H, W]").numpy())
    raise TypeError(
        f"{type(image).__name__} is not an image; give a path, a picture of Pillow, an array "
        "[H, W, 3] or a tensor [3, H, W]"
    )


def _pixels(values: torch.Tensor, is_right: bool, shape: str) -> Any:
    if values.dtype != torch.uint8:
        raise TypeError(f"an image of {str(values.dtype)[6:]} must be uint8 with values 0..255")
    if not is_right or 0 in values.shape:
        raise ValueError(f"an image of shape {list(values.shape)} must be {shape}")
    return values.cpu()
