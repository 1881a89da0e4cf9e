"""Folders of images without ground truth."""

import os
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
    with pytest.raises(UserError, match=r"holds no image \(\.jpg, \.jpeg, \.png, .*\); unpack"):
        ImageFolder(tmp_path, COCO)


def test_damaged_and_vanished_images(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = ImageFolder(tmp_path, COCO)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"b\.png cannot be read .*download it again"):
        dataset.read(1)
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(UserError, match=r"c\.jpg does not exist; unpack"):
        dataset.read(2)


def test_folders_in_the_folder_are_searched(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/rgb.png", "b/rgb.png", "b/rgb.jpg", ".hidden/x.jpg", "a/deep/y.WEBP"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (3, 2), (len(name), 0, 0)).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "dead.jpg").symlink_to("nowhere.jpg")
    dataset = ImageFolder(tmp_path, COCO)
    samples = [dataset.read(index) for index in range(len(dataset))]
    names = ["a/deep/y.WEBP", "a/rgb.png", "b.jpg", "b/rgb.jpg", "b/rgb.png"]
    assert [sample.name for sample in samples] == names
    assert [sample.file_name for sample in samples] == [str(tmp_path / name) for name in names]
    ids = ["a/deep/y", "a/rgb", "b", "b/rgb.jpg", "b/rgb.png"]
    assert [sample.image_id for sample in samples] == ids
    assert not any(finding.is_error for finding in dataset.inspector().check_files())


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    Image.new("RGB", (3, 2)).save(os.fsencode(tmp_path) + b"/\xff.jpg")
    with pytest.raises(UserError, match=r"holds the file '\\udcff.jpg', whose name is not a text"):
        ImageFolder(tmp_path, COCO)


def test_photographs_are_turned_if_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    stored = ImageFolder(tmp_path, COCO).read(0).image
    np.testing.assert_array_equal(stored, pixels)
    upright = ImageFolder(tmp_path, COCO, apply_exif=True).read(0).image
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))
