"""ImageNet's reader: labels, names, the official lists, and one sentence for what is wrong."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imagenet_tree import (
    CLASSES,
    COLORS,
    TRAIN_IMAGES,
    VAL_IMAGES,
    flatten_val,
    write_devkit,
    write_image,
    write_kaggle,
    write_tree,
)
from PIL import Image

from axialseg.datasets.imagenet import ImageNet
from axialseg.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "imagenet")


def labels_and_colors(dataset: ImageNet) -> list[tuple[int, int]]:
    """Of each image its label, and the class whose colour it has."""
    pairs = []
    for index in range(len(dataset)):
        sample = dataset.read(index)
        distance = np.abs(np.array(COLORS) - sample.image.mean((0, 1))).sum(1)
        pairs.append((sample.label, int(distance.argmin())))
    return pairs


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN_IMAGES), ("val", VAL_IMAGES)])
def test_class_folders(root: Path, split: str, count: int) -> None:
    dataset = ImageNet(root, split)
    assert dataset.categories.ids == dataset.categories.names == CLASSES
    expected = [(label, label) for label in range(3) for _ in range(count)]
    assert labels_and_colors(dataset) == expected
    assert dataset.labels.tolist() == [label for label, _ in expected]
    sample = dataset.read(1)
    assert sample.image_id == "n01440764/n01440764_1.JPEG"
    assert sample.file_name == str(root / split / sample.image_id)
    assert sample.image.shape == (48, 48, 3)
    assert sample.image.dtype == np.uint8
    assert not sample.image.flags.writeable


def test_a_split_with_fewer_classes_has_the_labels_of_training(root: Path) -> None:
    shutil.rmtree(root / "val" / CLASSES[0])
    assert set(labels_and_colors(ImageNet(root, "val"))) == {(1, 1), (2, 2)}
    assert len(ImageNet(root, "val").categories) == 3


def test_without_training_images_the_split_has_its_own_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    dataset = ImageNet(root, "val")
    assert dataset.categories.ids == CLASSES
    assert set(labels_and_colors(dataset)) == {(0, 0), (1, 1), (2, 2)}


def test_what_is_no_image_is_passed_over(root: Path) -> None:
    (root / "train" / CLASSES[0] / "notes.txt").write_text("")
    (root / "train" / CLASSES[0] / "._n01440764_0.JPEG").write_bytes(b"left by another system")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "list.txt").write_text("")
    assert len(ImageNet(root, "train")) == 3 * TRAIN_IMAGES


def test_odd_images_of_imagenet(root: Path) -> None:
    folder = root / "train" / CLASSES[0]
    Image.new("CMYK", (20, 10)).save(folder / "n01440764_1.JPEG", "JPEG")
    Image.new("L", (20, 10), 9).save(folder / "n01440764_2.JPEG", "JPEG")
    Image.new("RGBA", (20, 10), (1, 2, 3, 4)).save(folder / "n01440764_3.JPEG", "PNG")
    dataset = ImageNet(root, "train")
    shapes = [dataset.read(index).image.shape for index in (1, 2, 3)]
    assert shapes == [(10, 20, 3)] * 3
    assert dataset.read(3).image[0, 0].tolist() == [1, 2, 3]


def test_names_that_are_no_ascii(root: Path) -> None:
    write_image(root / "train" / CLASSES[2] / "zürich 1.jpg", 2, 0)
    dataset = ImageNet(root, "train")
    assert dataset.read(len(dataset) - 1).image_id == "n15075141/zürich 1.jpg"


@pytest.mark.parametrize("write", [write_devkit, write_kaggle])
@pytest.mark.parametrize("has_training_images", [True, False])
def test_official_validation_images(
    root: Path, write: Callable[[Path, list[int]], None], has_training_images: bool
) -> None:
    write(root, flatten_val(root))
    if not has_training_images:
        shutil.rmtree(root / "train")
    dataset = ImageNet(root, "val")
    assert dataset.categories.ids == CLASSES
    assert dataset.categories.names == tuple(f"name {k}, other name" for k in range(3))
    pairs = labels_and_colors(dataset)
    assert len(pairs) == 3 * VAL_IMAGES
    assert all(label == color for label, color in pairs)
    assert dataset.read(0).image_id == "ILSVRC2012_val_00000001.JPEG"
    if has_training_images:
        assert ImageNet(root, "train").categories == dataset.categories


def test_a_million_names_are_shared_between_processes(root: Path) -> None:
    dataset = ImageNet(root, "train")
    # Arrays of bytes, no objects of which each process would count the references.
    assert dataset._image_ids.dtype.kind == "S"
    assert dataset.labels.dtype == np.int32
    assert pickle.loads(pickle.dumps(dataset)).read(3).label == 0


def missing_root(root: Path) -> str:
    shutil.rmtree(root)
    return r"imagenet does not exist; set data\.root to the folder that holds train/ and val/"


def missing_split(root: Path) -> str:
    shutil.rmtree(root / "val")
    return r"val does not exist; set data\.root"


def unknown_class(root: Path) -> str:
    (root / "val" / CLASSES[0]).rename(root / "val" / "n09999999")
    return r"val/n09999999 is of no class that .*train has a folder for; move it away"


def empty_class(root: Path) -> str:
    shutil.rmtree(root / "val" / CLASSES[1])
    (root / "val" / CLASSES[1]).mkdir()
    return r"val/n02105855 holds no image \(\.jpeg, \.jpg, \.png\); unpack"


def empty_split(root: Path) -> str:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    return r"val holds neither folders of classes nor images; unpack"


def flat_without_a_list(root: Path) -> str:
    flatten_val(root)
    return r"val holds no folders of classes, and nothing in .* tells the classes .*devkit_t12/"


def flat_with_another_image(root: Path) -> str:
    write_kaggle(root, flatten_val(root))
    write_image(root / "val" / "mine.jpg", 0, 0)
    return r"val/mine\.jpg is not in the list of validation images"


def listed_class_without_training_images(root: Path) -> str:
    write_kaggle(root, flatten_val(root))
    shutil.rmtree(root / "train" / CLASSES[2])
    return r"val/ILSVRC2012_val_00000005\.JPEG is of class n15075141, for which .* has no folder"


def damaged_kaggle_list(root: Path) -> str:
    flatten_val(root)
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    return r"LOC_val_solution\.csv cannot be read as ImageNet publishes it; unpack or download"


def damaged_devkit(root: Path) -> str:
    write_devkit(root, flatten_val(root))
    path = root / "ILSVRC2012_devkit_t12/data/meta.mat"
    path.write_bytes(path.read_bytes()[:300])
    return r"meta\.mat cannot be read as ImageNet publishes it; unpack or download"


def half_a_devkit(root: Path) -> str:
    write_devkit(root, flatten_val(root))
    (root / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    return r"meta\.mat does not exist, .* unpack the whole development kit"


@pytest.mark.parametrize(
    "damage",
    [
        missing_root,
        missing_split,
        unknown_class,
        empty_class,
        empty_split,
        flat_without_a_list,
        flat_with_another_image,
        listed_class_without_training_images,
        damaged_kaggle_list,
        damaged_devkit,
        half_a_devkit,
    ],
)
def test_one_sentence_for_what_is_wrong(root: Path, damage: Callable[[Path], str]) -> None:
    message = damage(root)
    with pytest.raises(UserError, match=message) as caught:
        ImageNet(root, "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "text", "removed"])
def test_a_corrupt_image_is_named(root: Path, damage: str) -> None:
    dataset = ImageNet(root, "train")
    path = root / "train" / CLASSES[0] / "n01440764_2.JPEG"
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:400] if damage == "truncated" else b"<html>")
    with pytest.raises(UserError, match=r"n01440764_2\.JPEG ") as caught:
        dataset.read(2)
    assert "\n" not in str(caught.value)
