import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.id_png import ids_from_rgb, read_id_png, rgb_from_ids


def test_official_coding() -> None:
    rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], np.uint8)
    ids = ids_from_rgb(rgb)
    assert ids.tolist() == [[1, 256, 65536, 16777215]]
    assert ids.dtype == np.int32
    assert (rgb_from_ids(ids) == rgb).all()


@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (5,), (0, 3), (3, 0)])
def test_coding_of_any_shape_and_layout(shape: tuple[int, ...]) -> None:
    ids = np.random.default_rng(1).integers(0, 256**3, shape).astype(np.int32)
    rgb = rgb_from_ids(ids)
    turned = np.ascontiguousarray(rgb[..., ::-1])[..., ::-1]
    with_alpha = np.concatenate([rgb, np.full((*shape, 1), 9, np.uint8)], -1)
    for pixels in (rgb, turned, with_alpha):
        assert ids_from_rgb(pixels).tolist() == ids.tolist()


def test_reads_rgb_and_ignores_alpha(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256**3, (5, 7)).astype(np.int32)
    Image.fromarray(rgb_from_ids(ids)).save(tmp_path / "rgb.png")
    assert (read_id_png(tmp_path / "rgb.png") == ids).all()
    alpha = np.full((5, 7, 1), 9, np.uint8)
    Image.fromarray(np.concatenate([rgb_from_ids(ids), alpha], 2)).save(tmp_path / "rgba.png")
    assert (read_id_png(tmp_path / "rgba.png") == ids).all()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png does not exist; unpack"):
        read_id_png(tmp_path / "a.png")


def test_truncated_file_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256**3, (40, 40))
    Image.fromarray(rgb_from_ids(noise)).save(path)
    content = path.read_bytes()
    for length in (0, 4, 20, 60, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"a\.png cannot be read .* truncated"):
            read_id_png(path)


def test_grey_and_palette_files_hold_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    ids = np.array([[0, 7, 200], [7, 7, 3]], np.uint8)
    listed = np.array([3, 7, 200])
    Image.fromarray(ids).save(path)
    assert read_id_png(path, listed).tolist() == ids.tolist()
    palette = Image.fromarray(ids)
    palette.putpalette([n % 256 for n in range(5, 773)])
    palette.save(path)
    assert Image.open(path).mode == "P"
    assert read_id_png(path, listed).tolist() == ids.tolist()
    Image.fromarray(ids.astype(np.uint16) * 300).save(path)
    assert read_id_png(path, listed * 300).tolist() == (ids.astype(int) * 300).tolist()


def test_a_palette_may_hold_the_colours_of_large_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 70000, 1234567], [70000, 70000, 300]])
    rgb = Image.fromarray(rgb_from_ids(ids))
    rgb.quantize(4, dither=Image.Dither.NONE).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert read_id_png(tmp_path / "a.png", np.array([300, 70000, 1234567])).tolist() == ids.tolist()
    grey = np.array([[0, 5 * 65793], [0, 0]])
    Image.fromarray(rgb_from_ids(grey)).convert("L").save(tmp_path / "b.png")
    assert read_id_png(tmp_path / "b.png", np.array([5 * 65793])).tolist() == grey.tolist()


def test_grey_file_of_other_ids_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        UserError, match=r"a\.png is not a panoptic id PNG .*are L, not RGB, and hold"
    ):
        read_id_png(tmp_path / "a.png", np.array([1, 2]))


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_a_colour_are_refused(tmp_path: Path, channels: int) -> None:
    # Pillow reads such a file as 8-bit RGB, by the upper bytes: ids below 256 would be void.
    pixels = np.zeros((2, 2, channels), np.uint16)
    pixels[..., 2] = 7
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    with pytest.raises(UserError, match=r"a\.png has 16 bits a colour, .* write the panoptic PNGs"):
        read_id_png(tmp_path / "a.png")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(40_000, 40_000))
    with pytest.raises(UserError, match=r"a\.png cannot be read .*1600000000 pixels"):
        read_id_png(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"a\.png cannot be read \(it is a .*{kind}, not a file\)"):
        read_id_png(path)


def png_header(width: int, height: int) -> bytes:
    """A whole 8-bit RGB PNG whose header promises more than it holds."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content
