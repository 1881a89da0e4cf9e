from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from axialseg.errors import UserError
from axialseg.inference.pictures import as_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_every_form_is_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    forms: list[Any] = [path, str(path), Image.fromarray(PIXELS), PIXELS, PIXELS[:, ::-1][:, ::-1]]
    forms.append(torch.from_numpy(PIXELS).permute(2, 0, 1))
    for form in forms:
        assert np.array_equal(as_picture(form).pixels, PIXELS)
    assert as_picture(path).file_name == str(path)
    assert as_picture(PIXELS).file_name == ""
    grey = as_picture(PIXELS[..., 0]).pixels
    assert np.array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=2))
    assert as_picture(Image.fromarray(PIXELS).convert("RGBA")).pixels.shape == (5, 7, 3)


@pytest.mark.parametrize("turn", range(1, 9))
def test_photographs_are_upright(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.png", "a.jpg"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
            assert np.array_equal(as_picture(image).pixels, upright)
        assert np.array_equal(as_picture(tmp_path / name).pixels, upright)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (PIXELS / 255, TypeError, "float64 must be uint8"),
        (torch.zeros(3, 5, 7), TypeError, "float32 must be uint8"),
        (PIXELS[..., :2], ValueError, r"\[5, 7, 2\] must be \[H, W, 3\]"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.uint8), ValueError, r"must be \[3, H, W\]"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), ValueError, r"must be \[3, H, W\]"),
        (np.zeros((0, 7, 3), np.uint8), ValueError, "must be"),
        (3, TypeError, "int is not an image"),
        ("nowhere.png", UserError, "nowhere.png does not exist"),
    ],
)
def test_mistakes(image: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        as_picture(image)
