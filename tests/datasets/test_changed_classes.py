"""Other classes than the files list: for every reader, in training, in the doctor."""

from functools import partial
from pathlib import Path
from typing import Any

import cityscapes_tree
import mapillary_tree
import numpy as np
import pytest
from coco_tree import write_tree

from axialseg.data_check.check import check_split
from axialseg.datasets.changed_classes import ChangedDataset
from axialseg.datasets.cityscapes import Cityscapes, CityscapesPanoptic
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.datasets.image_folder import ImageFolder
from axialseg.datasets.mapillary_vistas import mapillary_vistas
from axialseg.datasets.open_dataset import open_dataset
from axialseg.datasets.sample import PanopticDataset
from axialseg.errors import UserError
from axialseg.panoptic.class_changes import ClassChanges
from axialseg.panoptic.coco_classes import COCO


def coco(root: str | Path, **options: Any) -> CocoPanoptic:
    name = "annotations/panoptic_train2017"
    return CocoPanoptic(root, "train2017", f"{name}.json", name, **options)


def write_cityscapes(root: Path) -> None:
    cityscapes_tree.write_tree(root)
    cityscapes_tree.create_panoptic_images(root, "train")


# Reader, what writes its files, and a change: one class to void, two things into one.
READERS = {
    "coco": (coco, partial(write_tree, splits=("train",)), "sky", ("cat", "dog")),
    "cityscapes": (partial(Cityscapes, splits=["train"]), write_cityscapes, "road", ("car", "bus")),
    "cityscapes_panoptic": (
        partial(CityscapesPanoptic, splits=["train"]),
        write_cityscapes,
        "road",
        ("car", "bus"),
    ),
    "mapillary": (
        partial(mapillary_vistas, split="training"),
        mapillary_tree.write_tree,
        None,
        None,
    ),
    "shapes": (
        partial(shapes_panoptic, split="train", train_images=4, val_images=1),
        lambda root: root.rmdir(),
        "sky",
        ("disk", "square"),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader(tmp_path: Path, name: str) -> None:
    factory, write, dropped, merged = READERS[name]
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    plain: PanopticDataset = open_dataset(factory, root)
    categories = plain.categories
    if dropped is None:
        stuff = [c.name for c in categories.classes if not c.is_thing]
        things = [c.name for c in categories.classes if c.is_thing]
        dropped, merged = stuff[0], tuple(things[:2])
    changes = ClassChanges(drop=[dropped], merge={"both": merged})
    dataset = open_dataset(factory, root, changes)
    assert isinstance(dataset, ChangedDataset)
    assert len(dataset.categories) == len(categories) - 2
    old_name = {c.class_id: c.name for c in categories.classes}
    new_name = {c.class_id: c.name for c in dataset.categories.classes}
    presence = dataset.class_presence()
    for index in range(len(plain)):
        before, after = plain.read(index), dataset.read(index)
        np.testing.assert_array_equal(before.image, after.image)
        for one, other in zip(
            before.segments.semantic_map(255).ravel()[::7],
            after.segments.semantic_map(255).ravel()[::7],
            strict=True,
        ):
            name_before = old_name.get(int(one))
            expected = "both" if name_before in merged else name_before
            assert new_name.get(int(other)) == (None if expected == dropped else expected)
        # Things stay apart.
        kept = [old_name[c] != dropped for c in before.segments.class_ids.tolist()]
        assert len(after.segments.class_ids) == sum(kept)
        seen = np.zeros(presence.shape[1], bool)
        seen[after.segments.class_ids] = True
        np.testing.assert_array_equal(presence[index], seen)
    report = check_split("train", dataset, 0, lambda line: None)
    assert report.categories == dataset.categories
    expected_pixels = sum(
        np.bincount(s.class_ids, s.areas(), len(report.statistics.pixels))
        for s in (dataset.read(index).segments for index in range(len(dataset)))
    )
    assert report.statistics.pixels.tolist() == expected_pixels.astype(int).tolist()


def test_things_named_by_the_user_quiet_the_doctor(tmp_path: Path) -> None:
    write_tree(tmp_path, ("train",))
    semantic = check_split(
        "train", open_dataset(coco, tmp_path, ClassChanges(things=[])), 0, lambda line: None
    )
    assert semantic.findings == []
    assert semantic.statistics.crowds.sum() == 0
    assert semantic.statistics.segments.tolist() == [0, 5, 5, 5, 5]
    stuff = ClassChanges(things=["cat"])
    report = check_split("train", open_dataset(coco, tmp_path, stuff), 0, lambda line: None)
    assert report.findings == []


def test_options_that_a_reader_lacks_are_refused(tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path)
    with pytest.raises(UserError, match=r"Cityscapes does not know data\.apply_exif; leave"):
        open_dataset(partial(Cityscapes, splits=["train"]), tmp_path, apply_exif=True)


def test_images_without_ground_truth_have_the_new_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, ("train",))
    factory = partial(ImageFolder, categories=COCO)

    def opened(root: str | Path) -> ImageFolder:
        return factory(root=Path(root) / "train2017")

    dataset = open_dataset(opened, tmp_path, ClassChanges(things=[]))
    assert dataset.categories.thing_ids == ()
    assert dataset.read(0).segments is None
    with pytest.raises(UserError, match="ImageFolder has no ground truth to count"):
        dataset.class_presence()
