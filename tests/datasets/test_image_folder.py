"""Folders of images without ground truth."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axialseg.datasets.image_folder import ImageFolder
from axialseg.errors import UserError
from axialseg.panoptic.coco_classes import COCO


def write(folder: Path) -> None:
    for number, name in enumerate(("b.png", "a.JPG", "c.jpg")):
        Image.new("RGB", (6 + number, 5), (number, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "d.png").mkdir()


def test_images_come_by_name_without_ground_truth(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "d.png").rmdir()
    dataset = ImageFolder(tmp_path, COCO)
    samples = [dataset.read(index) for index in range(len(dataset))]
    assert [sample.image_id for sample in samples] == ["a", "b", "c"]
    assert [sample.image.shape for sample in samples] == [(5, 7, 3), (5, 6, 3), (5, 8, 3)]
    assert all(sample.segments is None for sample in samples)
    assert samples[0].file_name == str(tmp_path / "a.JPG")
    assert dataset.categories is COCO
    with pytest.raises(ValueError, match="read-only"):
        samples[0].image[0] = np.uint8(1)


def test_folders_are_no_images(tmp_path: Path) -> None:
    write(tmp_path)
    assert len(ImageFolder(tmp_path, COCO)) == 3


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none does not exist; give the folder of the images"):
        ImageFolder(tmp_path / "none", COCO)
    with pytest.raises(UserError, match=r"holds no image \(\.jpg, \.png\); unpack them there"):
        ImageFolder(tmp_path, COCO)


def test_damaged_and_vanished_images(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = ImageFolder(tmp_path, COCO)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"b\.png can not be read .*download it again"):
        dataset.read(1)
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(UserError, match=r"c\.jpg does not exist; unpack"):
        dataset.read(2)
