"""Photographs of every colour type come back as RGB."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axialseg.datasets.image_file import read_rgb
from axialseg.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_colour_type_is_rgb_uint8(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    result = read_rgb(path)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_has_the_right_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 30))
    red.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - [200, 30, 30]).max() <= 6


def test_sixteen_bit_grey_is_shortened(tmp_path: Path) -> None:
    grey = np.array([[0, 255, 256, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png")[0].tolist() == [[v] * 3 for v in (0, 0, 1, 255)]


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), RGB)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png does not exist; unpack"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files_are_user_errors_wherever_they_end(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    content = path.read_bytes()
    for length in range(0, len(content) - 24, 7):  # the last 24 bytes of the PNG hold no pixels
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"a\.{suffix} can not be read .*download it again"):
            read_rgb(path)
