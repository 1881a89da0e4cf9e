"""The fingerprint is the same for the same data and differs where they do."""

import shutil
from pathlib import Path

from coco_tree import write_tree
from PIL import Image

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.datamodule import InMemoryDataset
from axialseg.datasets.fingerprint import fingerprint
from axialseg.datasets.split import Part


def opened(root: Path) -> CocoPanoptic:
    folder, file = "annotations/panoptic_train2017", "annotations/panoptic_train2017.json"
    return CocoPanoptic(root, "train2017", file, folder)


def test_it_follows_the_data(tmp_path: Path) -> None:
    write_tree(tmp_path / "a", ("train",))
    first = fingerprint(opened(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(opened(tmp_path / "b")) == first
    assert fingerprint(InMemoryDataset(opened(tmp_path / "b"))) == first
    assert fingerprint(Part(opened(tmp_path / "b"), [0])) != first
    assert first["images"] == len(opened(tmp_path / "a"))

    image = next((tmp_path / "b").rglob("*.jpg"))
    Image.new("RGB", Image.open(image).size).save(image)
    assert fingerprint(opened(tmp_path / "b")) != first
    (annotations,) = (tmp_path / "a").rglob("*.json")
    annotations.write_text(annotations.read_text() + " ")
    assert fingerprint(opened(tmp_path / "a")) != first
