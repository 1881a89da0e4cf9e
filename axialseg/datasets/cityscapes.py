"""Cityscapes, straight from the official files.

Layout, with `gtFine` or `gtCoarse` for the ground truth::

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png

The ground truth is made from the instance ids while reading, by the rule of the official
`createPanopticImgs.py`, which need not be run. Who has nothing but its results reads them with
`CityscapesPanoptic`: the samples are the same.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.annotation_index import indexed_table
from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.paths import check_paths
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.cityscapes import read_instance_ids, segments_from_instance_ids
from axialseg.formats.coco_annotations import (
    CocoPanopticAnnotations,
    annotations_of,
    class_presence,
    read_segments,
)
from axialseg.formats.id_png import check_size
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.panoptic_map import PanopticSegments

IMAGES = "leftImg8bit"
# Its annotations are not published; the files of that name show the car's bonnet alone.
TEST_SPLIT = "test"

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """One image: its split, city, and official id, such as `aachen_000000_000019`."""

    split: str
    city: str
    image_id: str


class Cityscapes:
    """Some splits of Cityscapes; images of `test` have no ground truth."""

    categories: Categories = CITYSCAPES

    def __init__(
        self, root: str | Path, splits: Sequence[str], annotation_folder: str = "gtFine"
    ) -> None:
        """Lists the images and compares them with the annotations.

        Args:
            root: folder that holds `leftImg8bit`.
            splits: `train`, `val`, `test`, or with coarse annotations also `train_extra`; in
                order, images sorted by city and number.
            annotation_folder: `gtFine` or `gtCoarse`.

        Raises:
            UserError: a folder is missing or empty, or an image or its annotation is missing.
        """
        self.root = Path(root)
        self.annotation_folder = annotation_folder
        self.splits = tuple(splits)
        labelled = [split for split in self.splits if split != TEST_SPLIT]
        self._check_folders(labelled)
        self._items = [item for split in self.splits for item in self._images_of(split)]
        for split in labelled:
            self._check_pairs(split)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._items)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index` and its segments.

        Raises:
            UserError: a file is missing or damaged, or the two do not fit together.
        """
        item = self._items[index]
        path = self._image_path(item)
        image = read_rgb(path)
        image.setflags(write=False)
        segments = None
        if item.split != TEST_SPLIT:
            segments = self._read_segments(item, image.shape[:2])
            segments.id_map.setflags(write=False)
        return PanopticSample(image, segments, item.image_id, str(path))

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, 19]``; reads all annotations, a minute."""
        log.info("Counting the classes of %d images", len(self))
        presence = np.zeros((len(self), self.categories.semantic_channels), bool)
        for row, item in zip(presence, self._items, strict=True):
            path = self._instance_path(item)
            row[segments_from_instance_ids(read_instance_ids(path), path).class_ids] = True
        return presence

    def _image_path(self, item: Item) -> Path:
        folder = self.root / IMAGES / item.split / item.city
        return folder / f"{item.image_id}_{IMAGES}.png"

    def _instance_path(self, item: Item) -> Path:
        folder = self.root / self.annotation_folder / item.split / item.city
        return folder / f"{item.image_id}_{self.annotation_folder}_instanceIds.png"

    def _check_folders(self, labelled: Sequence[str]) -> None:
        images = [f"{IMAGES}/{split}" for split in self.splits]
        check_paths(self.root, images + [f"{self.annotation_folder}/{s}" for s in labelled], [])

    def _check_pairs(self, split: str) -> None:
        """Refuses an image without annotation, and the other way round."""
        suffix = f"_{self.annotation_folder}_instanceIds.png"
        images = {item for item in self._items if item.split == split}
        annotated = set(_list_items(self.root / self.annotation_folder, split, suffix))
        for item in sorted(images - annotated):
            raise UserError(
                f"{self._instance_path(item)} does not exist; unpack all of "
                f"{self.annotation_folder}, or remove {self._image_path(item)}."
            )
        for item in sorted(annotated - images):
            raise UserError(
                f"{self._image_path(item)} does not exist; unpack all of {IMAGES}, or remove "
                f"{self._instance_path(item)}."
            )

    def _images_of(self, split: str) -> list[Item]:
        items = _list_items(self.root / IMAGES, split, f"_{IMAGES}.png")
        if not items:
            raise UserError(
                f"{self.root / IMAGES / split} holds no <city>/*_{IMAGES}.png; unpack "
                f"{IMAGES}_trainvaltest.zip (for train_extra {IMAGES}_trainextra.zip) there."
            )
        return items

    def _read_segments(self, item: Item, size: tuple[int, int]) -> PanopticSegments:
        path = self._instance_path(item)
        ids = read_instance_ids(path)
        check_size(path, ids, self._image_path(item).name, size)
        return segments_from_instance_ids(ids, path)


class CityscapesPanoptic(Cityscapes):
    """The same from `gtFine/cityscapes_panoptic_<split>.json` and the folder of that name."""

    def _check_folders(self, labelled: Sequence[str]) -> None:
        tables = [f"{self.annotation_folder}/cityscapes_panoptic_{split}" for split in labelled]
        images = [f"{IMAGES}/{split}" for split in self.splits]
        check_paths(self.root, images + tables, [f"{table}.json" for table in tables])

    def _check_pairs(self, split: str) -> None:
        """The same by the JSON file."""
        listed = set(self._positions[split])
        images = {item.image_id: item for item in self._items if item.split == split}
        for image_id in sorted(images.keys() - listed):
            raise UserError(
                f"{self._annotations[split].path} does not list the image {image_id}; make it "
                f"anew with createPanopticImgs.py, or remove {self._image_path(images[image_id])}."
            )
        for image_id in sorted(listed - images.keys()):
            city = image_id.split("_")[0]
            raise UserError(
                f"{self._image_path(Item(split, city, image_id))} does not exist; unpack all of "
                f"{IMAGES}."
            )

    @cached_property
    def _annotations(self) -> dict[str, CocoPanopticAnnotations]:
        folder = self.root / self.annotation_folder
        return {
            split: annotations_of(
                indexed_table(folder / f"cityscapes_panoptic_{split}.json"), CITYSCAPES
            )
            for split in self.splits
            if split != TEST_SPLIT
        }

    @cached_property
    def _positions(self) -> dict[str, dict[str, int]]:
        """Split -> image id -> its place in the JSON file."""
        return {
            split: {str(image_id): n for n, image_id in enumerate(annotations.image_ids.tolist())}
            for split, annotations in self._annotations.items()
        }

    def _read_segments(self, item: Item, size: tuple[int, int]) -> PanopticSegments:
        annotations = self._annotations[item.split]
        folder = annotations.path.with_suffix("")
        return read_segments(annotations, self._positions[item.split][item.image_id], folder, size)

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, 19]``."""
        tables = {split: class_presence(table) for split, table in self._annotations.items()}
        rows = [tables[i.split][self._positions[i.split][i.image_id]] for i in self._items]
        return np.stack(rows)


def _list_items(folder: Path, split: str, suffix: str) -> list[Item]:
    """Files ``<split>/<city>/<image id><suffix>``, sorted."""
    return sorted(
        Item(split, city.name, file.name.removesuffix(suffix))
        for city in (folder / split).iterdir()
        if city.is_dir()
        for file in city.iterdir()
        if file.name.endswith(suffix)
    )
