"""Photographs of every colour type come back as RGB."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axialseg.datasets.image_file import read_rgb
from axialseg.errors import UserError
from axialseg.formats.plain_image import decode_plain_image, decode_plain_png

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
        with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read .*download it again"):
            read_rgb(path)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of 9 x 12 pixels, those of `RGB` unless the chunks say otherwise."""
    size = struct.pack(">IIBBBBB", RGB.shape[1], RGB.shape[0], 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", size), *chunks, (b"IEND", b"")):
        checksum = zlib.crc32(kind + data)
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return content


ROWS = b"".join(b"\0" + row.tobytes() for row in RGB)
PIXELS = (b"IDAT", zlib.compress(ROWS))


@pytest.mark.parametrize(
    "chunks",
    [
        [PIXELS],
        [(b"IDAT", PIXELS[1][:50]), (b"IDAT", PIXELS[1][50:])],
        [(b"gAMA", struct.pack(">I", 100_000)), PIXELS],
        [(b"sRGB", b"\0"), (b"pHYs", struct.pack(">IIB", 9, 9, 1)), PIXELS, (b"tEXt", b"a\0b")],
        [(b"bKGD", struct.pack(">HHH", 9, 9, 9)), PIXELS],
        [(b"tRNS", struct.pack(">HHH", *RGB[0, 0].tolist())), PIXELS],  # left to Pillow
    ],
)
def test_pngs_by_opencv_are_those_by_pillow(chunks: list, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(*chunks))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), RGB)
    is_plain = chunks[0][0] != b"tRNS"
    assert (decode_plain_png((tmp_path / "a.png").read_bytes()) is not None) is is_plain


@pytest.mark.parametrize("options", [{"compress_level": 9}, {"optimize": True}, {"dpi": (72, 72)}])
def test_pngs_of_every_size_and_filter(options: dict, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for size in ((1, 1), (3, 70), (64, 33)):
        smooth = np.add.outer(np.arange(size[0]) * 2, np.arange(size[1]))[..., None]
        image = (smooth + rng.integers(0, 9, (*size, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "a.png", **options)
        assert decode_plain_png((tmp_path / "a.png").read_bytes()) is not None
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"IDAT", zlib.compress(ROWS[:100]))],
        [(b"IDAT", PIXELS[1][:40])],
        [(b"IDAT", b"no stream")],
        [(b"IDAT", zlib.compress(b"\x09" + ROWS[1:]))],
        [],
    ],
)
def test_wrong_pngs_with_right_checksums_are_user_errors(chunks: list, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(*chunks))
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        read_rgb(tmp_path / "a.png")


def test_no_altered_byte_of_a_png_goes_unseen(tmp_path: Path) -> None:
    # Pillow does not look at the checksums of pixels, so some damage it alone would not see.
    content = png(PIXELS)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 16
        assert decode_plain_png(bytes(altered)) is None


JPEGS = [
    {"quality": 90},
    {"quality": 75, "subsampling": 0},
    {"quality": 100, "progressive": True},
    {"quality": 60, "restart_marker_blocks": 2},
    {"quality": 90, "dpi": (72, 72), "comment": "a comment", "icc_profile": b"profile"},
    {"quality": 90, "keep_rgb": True},
]


@pytest.mark.parametrize("options", JPEGS)
def test_jpegs_by_opencv_are_those_by_pillow(options: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB.repeat(3, 0).repeat(5, 1)).save(path, exif=exif, **options)
    assert decode_plain_image(path.read_bytes()) is not None
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb(path), np.asarray(image))


def test_other_images_are_left_to_pillow(tmp_path: Path) -> None:
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png")):
        Image.fromarray(RGB).convert(mode).save(tmp_path / f"a.{suffix}")
        assert decode_plain_image((tmp_path / f"a.{suffix}").read_bytes()) is None


def test_an_id_png_is_no_jpeg(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=100)
    assert decode_plain_png((tmp_path / "a.jpg").read_bytes()) is None
