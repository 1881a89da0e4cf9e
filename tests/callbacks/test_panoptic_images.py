"""Pictures of the first validation images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_panoptic import ToyData, toy_image, toy_task, toy_trainer

import axialseg.callbacks.panoptic_images as module
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.panoptic.panoptic_map import PanopticSegments


def validate(folder: Path, data: ToyData, count: int | None, worst: int = 0) -> None:
    trainer = toy_trainer(folder, val_check_interval=1, callbacks=[PanopticImages(count, worst)])
    trainer.validate(toy_task(), data, verbose=False)


def test_writes_the_first_images(tmp_path: Path) -> None:
    validate(tmp_path, ToyData(val_images=5), 3)
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == ["000.png", "001.png", "002.png"]
    with Image.open(files[0]) as image:
        assert image.mode == "RGB"
        assert image.width > image.height


def test_draws_the_unpadded_image_at_its_original_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(image: np.ndarray, truth: PanopticSegments, *_: object) -> np.ndarray:
        drawn.append((image, truth))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(module, "comparison", draw)
    validate(tmp_path, ToyData(), 1)
    ((image, truth),) = drawn
    assert np.array_equal(image, toy_image(0))
    assert truth.id_map.shape == image.shape[:2]


def test_images_without_ground_truth_are_drawn_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ToyData()
    read = data.val_dataset.read
    monkeypatch.setattr(data.val_dataset, "read", lambda index: read(index)._replace(segments=None))
    validate(tmp_path, data, 1)
    assert (tmp_path / "images/000.png").exists()


def test_the_worst_images_have_their_quality_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "images/worst").mkdir(parents=True)
    (tmp_path / "images/worst/PQ_99.9_older.png").touch()
    validate(tmp_path, ToyData(val_images=5), 1, worst=5)
    everything = sorted(file.name for file in (tmp_path / "images/worst").iterdir())
    assert len(everything) == 5
    assert {name.split("_")[2] for name in everything} == {f"{n:03d}.png" for n in range(5)}
    validate(tmp_path, ToyData(val_images=5), 1, worst=2)
    left = sorted(file.name for file in (tmp_path / "images/worst").iterdir())
    assert [name.split("_")[1] for name in left] == [name.split("_")[1] for name in everything[:2]]


def test_all_are_drawn_where_no_number_is_given(tmp_path: Path) -> None:
    validate(tmp_path, ToyData(val_images=5), None)
    assert len(list((tmp_path / "images").iterdir())) == 5


def test_no_picture_is_no_folder(tmp_path: Path) -> None:
    validate(tmp_path, ToyData(), 0)
    assert not (tmp_path / "images").exists()


def test_images_of_one_name_in_two_folders_keep_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ToyData(val_images=4)
    names = ["a/rgb.png", "b/rgb.png", "b/rgb.jpg", "../c.png"]
    read = data.val_dataset.read
    monkeypatch.setattr(data.val_dataset, "read", lambda n: read(n)._replace(name=names[n]))
    validate(tmp_path, data, 4)
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")}
    assert written == {f"images/{n}.png" for n in ("a/rgb", "b/rgb", "b/rgb.jpg", "c")}
