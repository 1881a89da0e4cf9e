"""Checks Cityscapes: that images and annotations pair, and what the annotations hold."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from axialseg.datasets.cityscapes_files import IMAGES, TEST_SPLIT, CityscapesFiles, Item, missing
from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.coco import (
    SegmentRows,
    annotated_sample,
    check_table,
    compare_pngs,
    inspect_annotated,
    rows_of,
)
from axialseg.datasets.inspection.inspector import (
    Finding,
    ImageInspection,
    content_findings,
    inspect_photograph,
    known_segments,
    measure,
    no_truth,
)
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.cityscapes import classes_of_instance_ids, read_instance_ids
from axialseg.formats.coco_annotations import class_ids_of
from axialseg.formats.id_png import check_size
from axialseg.formats.panoptic_table import PanopticTable
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES


class CityscapesInspector:
    """Checks images and their `*_instanceIds.png`."""

    categories: Categories = CITYSCAPES

    def __init__(self, files: CityscapesFiles) -> None:
        """Keeps the list of files."""
        self.files = files

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def check_files(self) -> list[Finding]:
        """Images without annotation, and annotations without image."""
        return list(self.files.pair_findings())

    def check_tables(self) -> list[Finding]:
        """Nothing: there are no tables."""
        return []

    def inspect(self, index: int) -> ImageInspection:
        """Reads one image and its instance ids."""
        item = self.files.item(index)
        image = self.files.image(item)
        size, findings = inspect_photograph(image)
        path = self.files.instance_ids(item)
        if item.split == TEST_SPLIT:
            return no_truth(str(image), size, findings, is_complete=size is not None)
        if not path.is_file():
            return no_truth(str(image), size, findings, is_complete=False)
        try:
            ids = read_instance_ids(path)
        except UserError as error:
            findings.append(Finding("corrupt file", True, str(path), str(error)))
            return no_truth(str(image), size, findings, is_complete=False)
        try:
            if size is not None:
                check_size(path, ids, image.name, size)
        except UserError as error:
            findings.append(Finding("size mismatch", True, str(path), str(error)))

        pixels = measure(ids)
        class_ids, is_crowd = classes_of_instance_ids(pixels.values)
        unknown = pixels.values[class_ids < 0].tolist()
        if unknown:
            findings.append(
                Finding(
                    "unknown category",
                    True,
                    str(path),
                    f"{path} has {len(unknown)} id{'s' * (len(unknown) > 1)} of no label of "
                    f"Cityscapes, such as {unknown[0]}; unpack the *_instanceIds.png files as "
                    "they are published.",
                )
            )
        is_known = (class_ids >= 0) & (class_ids != CITYSCAPES.ignore_class)
        known = class_ids[is_known], pixels.areas[is_known], is_crowd[is_known]
        findings += content_findings(str(image), *known, CITYSCAPES)
        void = ids.size - int(known[1].sum())
        is_complete = size is not None
        return ImageInspection(str(image), size, True, is_complete, *known, void, tuple(findings))

    def sample(self, index: int) -> PanopticSample:
        """One image with the segments that are known, see `Inspector.sample`."""
        item = self.files.item(index)
        image = self.files.image(item)
        pixels, segments = read_rgb(image), None
        if item.split != TEST_SPLIT:
            path = self.files.instance_ids(item)
            ids = read_instance_ids(path)
            check_size(path, ids, image.name, pixels.shape[:2])
            values = np.unique(ids)
            classes = classes_of_instance_ids(values)
            segments = known_segments(ids, values, *classes, CITYSCAPES)
        return PanopticSample(pixels, segments, item.image_id, str(image), image.name)


class CityscapesPanopticInspector:
    """Checks images and what `createPanopticImgs.py` has made of their annotations."""

    categories: Categories = CITYSCAPES

    def __init__(self, files: CityscapesFiles, tables: Mapping[str, PanopticTable]) -> None:
        """Keeps the list of files, and the JSON file of each split."""
        self.files = files
        self.tables = tables
        self._class_ids = {s: class_ids_of(t.category_ids, CITYSCAPES) for s, t in tables.items()}
        self._positions = {
            split: {str(image_id): n for n, image_id in enumerate(table.annotated_ids.tolist())}
            for split, table in tables.items()
        }

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def check_files(self) -> list[Finding]:
        """Compares the images and the PNGs with the JSON files."""
        return [f for split in self.files.labelled_splits for f in self._check_split(split)]

    def check_tables(self) -> list[Finding]:
        """Compares the lists of each JSON file with each other."""
        return [finding for table in self.tables.values() for finding in check_table(table)]

    def inspect(self, index: int) -> ImageInspection:
        """Reads one image and its PNG, and compares them with the JSON file."""
        item = self.files.item(index)
        image = self.files.image(item)
        place = self._row(item)
        if place is None:
            size, findings = inspect_photograph(image)
            is_complete = item.split == TEST_SPLIT and size is not None
            return no_truth(str(image), size, findings, is_complete)
        table, position = place
        png, rows = self._annotation(item, table, position)
        listed = int(table.annotated[position])
        listed_size = table.listed_sizes[listed] if listed >= 0 else np.zeros(2, np.int32)
        return inspect_annotated(image, png, rows, table.path, listed_size, CITYSCAPES)

    def sample(self, index: int) -> PanopticSample:
        """One image with the segments that are known, see `Inspector.sample`."""
        item = self.files.item(index)
        image = self.files.image(item)
        place = self._row(item)
        if place is None:
            return PanopticSample(read_rgb(image), None, item.image_id, str(image), image.name)
        return annotated_sample(image, *self._annotation(item, *place), CITYSCAPES)

    def _row(self, item: Item) -> tuple[PanopticTable, int] | None:
        """The table of an image and its place there, if there is one."""
        table = self.tables.get(item.split)
        position = self._positions.get(item.split, {}).get(item.image_id)
        return None if table is None or position is None else (table, position)

    def _annotation(
        self, item: Item, table: PanopticTable, position: int
    ) -> tuple[Path, SegmentRows]:
        """The id PNG and the rows of an image."""
        png = file_below(table.path.with_suffix(""), str(table.png_files[position]))
        return png, rows_of(table, self._class_ids[item.split], position)

    def _check_split(self, split: str) -> Iterator[Finding]:
        table, listed = self.tables[split], self._positions[split]
        images = {item.image_id: item for item in self.files.items(split)}
        for image_id in sorted(images.keys() - listed.keys()):
            image = self.files.image(images[image_id])
            text = (
                f"{table.path} does not list the image {image_id}; make it anew with "
                f"createPanopticImgs.py, or remove {image}."
            )
            yield Finding("image not listed", True, str(image), text)
        for image_id in sorted(listed.keys() - images.keys()):
            city = image_id.split("_")[0]
            yield missing(self.files.image(Item(split, city, image_id)), f"unpack all of {IMAGES}")
        yield from compare_pngs(table, table.path.with_suffix(""), self.files.root)
