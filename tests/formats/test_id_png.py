from pathlib import Path

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
        with pytest.raises(UserError, match=r"a\.png can not be read .* truncated"):
            read_id_png(path)


def test_grey_file_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is no panoptic id PNG .*are L, not RGB"):
        read_id_png(tmp_path / "a.png")
