"""The fast decoders give Pillow's pixels, whatever the file's filters and chunks are."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from axialseg.formats.plain_image import decode_plain_image, decode_plain_png

SHAPE = (37, 53, 3)
FILTERS = (
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_FILTER_SUB,
    cv2.IMWRITE_PNG_FILTER_UP,
    cv2.IMWRITE_PNG_FILTER_AVG,
    cv2.IMWRITE_PNG_FILTER_PAETH,
)


def pixels() -> NDArray[np.uint8]:
    """Noise over blocks, so that every filter has something to do."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (8, 9, 3)).repeat(5, 0).repeat(6, 1)[: SHAPE[0], : SHAPE[1]]
    return (blocks + rng.integers(0, 3, SHAPE)).astype(np.uint8)


def by_pillow(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("png_filter", FILTERS)
def test_each_filter(png_filter: int) -> None:
    flags = [cv2.IMWRITE_PNG_FILTER, png_filter]
    content = cv2.imencode(".png", pixels()[..., ::-1], flags)[1].tobytes()
    decoded = decode_plain_png(content)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, pixels())
    np.testing.assert_array_equal(decoded, by_pillow(content))


def test_chunks_that_change_no_pixel() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a", zip=True)
    text.add_itxt("Title", "b")
    text.add(b"gAMA", struct.pack(">I", 100_000))
    file = BytesIO()
    Image.fromarray(pixels()).save(file, "png", pnginfo=text, dpi=(72, 72))
    decoded = decode_plain_image(file.getvalue())
    assert decoded is not None
    np.testing.assert_array_equal(decoded, pixels())


def test_a_jpeg_has_its_colours_in_order() -> None:
    file = BytesIO()
    Image.fromarray(np.full((16, 16, 3), (250, 120, 10), np.uint8)).save(file, "jpeg", quality=95)
    decoded = decode_plain_image(file.getvalue())
    assert decoded is not None
    np.testing.assert_allclose(decoded, by_pillow(file.getvalue()), atol=2)


def test_rows_that_are_missing_are_noticed() -> None:
    file = BytesIO()
    Image.fromarray(pixels()).save(file, "png")
    content = file.getvalue()
    rows = zlib.compress(bytes(10 * (1 + 3 * SHAPE[1])))
    data = b"IDAT" + rows
    short = struct.pack(">I", len(rows)) + data + struct.pack(">I", zlib.crc32(data))
    assert decode_plain_png(content[:33] + short + content[-12:]) is None


def test_other_kinds_are_left_to_pillow(tmp_path: Path) -> None:
    for image in (Image.new("L", (4, 4)), Image.new("RGBA", (4, 4)), Image.new("P", (4, 4))):
        image.save(tmp_path / "a.png")
        assert decode_plain_png((tmp_path / "a.png").read_bytes()) is None
