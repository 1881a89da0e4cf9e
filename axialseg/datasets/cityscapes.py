"""Cityscapes, straight from the official files.

Layout, with `gtFine` or `gtCoarse` for the ground truth::

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png

The ground truth is made from the instance ids while reading, by the rule of the official
`createPanopticImgs.py`, so that script need not be run. `CityscapesPanoptic` reads the results of
the script, for users who have only these; the samples are the same.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.annotation_index import indexed_table
from axialseg.datasets.cityscapes_files import TEST_SPLIT, CityscapesFiles, Item
from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.cityscapes import (
    CityscapesInspector,
    CityscapesPanopticInspector,
)
from axialseg.datasets.inspection.inspector import Inspector, refuse_first_error
from axialseg.datasets.paths import check_paths, names_outside, outside_text
from axialseg.datasets.sample import PanopticSample, PanopticTruth
from axialseg.errors import UserError
from axialseg.formats.cityscapes import read_instance_ids, runs_from_instance_ids
from axialseg.formats.coco_annotations import (
    CocoPanopticAnnotations,
    annotations_of,
    class_presence,
    read_segment_runs,
)
from axialseg.formats.id_png import check_size
from axialseg.formats.panoptic_table import PanopticTable
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.panoptic_map import SegmentRuns

log = logging.getLogger(__name__)


class Cityscapes:
    """Some splits of Cityscapes; images of `test` have no ground truth."""

    categories: Categories = CITYSCAPES

    def __init__(
        self, root: str | Path, splits: Sequence[str], annotation_folder: str = "gtFine"
    ) -> None:
        """Lists the images.

        Args:
            root: folder that holds `leftImg8bit`.
            splits: `train`, `val`, `test`, or with coarse annotations also `train_extra`; in
                order, images sorted by city and number.
            annotation_folder: `gtFine` or `gtCoarse`.

        Raises:
            UserError: a folder is missing or empty.
        """
        self.files = CityscapesFiles(root, splits, annotation_folder)
        self._check_folders()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index` and its segments.

        Raises:
            UserError: a file is missing or damaged, or the two do not fit together. The first
                call refuses a data set in which any image or annotation lacks its counterpart.
        """
        assert self._is_complete
        item = self.files.item(index)
        path = self.files.image(item)
        image = read_rgb(path)
        image.setflags(write=False)
        segments = None
        if item.split != TEST_SPLIT:
            segments = self._read_runs(item, image.shape[:2]).paint()
            segments.id_map.setflags(write=False)
        return PanopticSample(image, segments, item.image_id, str(path), path.name)

    def read_truth(self, index: int) -> PanopticTruth:
        """Reads the segments of image `index`, and not the image.

        Raises:
            UserError: as of `read`.
        """
        assert self._is_complete
        item = self.files.item(index)
        segments = None if item.split == TEST_SPLIT else self._read_runs(item, None)
        return PanopticTruth(segments, item.image_id, str(self.files.image(item)))

    def inspector(self) -> Inspector:
        """What checks all files, see `inspection.Inspector`."""
        return CityscapesInspector(self.files)

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, 19]``; reads all annotations, a minute."""
        log.info("Counting the classes of %d images", len(self))
        presence = np.zeros((len(self), self.categories.semantic_channels), bool)
        for index, row in enumerate(presence):
            path = self.files.instance_ids(self.files.item(index))
            row[runs_from_instance_ids(read_instance_ids(path), path).class_ids] = True
        return presence

    @cached_property
    def _is_complete(self) -> bool:
        refuse_first_error(self.inspector().check_files())
        return True

    def _check_folders(self) -> None:
        folders = [f"{self.files.annotation_folder}/{s}" for s in self.files.labelled_splits]
        check_paths(self.files.root, folders, [])

    def _read_runs(self, item: Item, size: tuple[int, int] | None) -> SegmentRuns:
        path = self.files.instance_ids(item)
        ids = read_instance_ids(path)
        if size is not None:
            check_size(path, ids, self.files.image(item).name, size)
        return runs_from_instance_ids(ids, path)


class CityscapesPanoptic(Cityscapes):
    """The same from `gtFine/cityscapes_panoptic_<split>.json` and the folder of that name."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what is read: a process that is not forked maps the index of the JSON itself."""
        read = ("_tables", "_annotations", "_positions")
        return {key: value for key, value in self.__dict__.items() if key not in read}

    def inspector(self) -> Inspector:
        """What checks all files, see `inspection.Inspector`.

        Raises:
            UserError: a JSON file cannot be read.
        """
        return CityscapesPanopticInspector(self.files, self._tables)

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, 19]``."""
        tables = {split: class_presence(table) for split, table in self._annotations.items()}
        items = (self.files.item(index) for index in range(len(self)))
        rows = [tables[item.split][self._positions[item.split][item.image_id]] for item in items]
        return np.stack(rows)

    @cached_property
    def _tables(self) -> dict[str, PanopticTable]:
        return {s: indexed_table(self.files.panoptic(s)) for s in self.files.labelled_splits}

    @cached_property
    def _annotations(self) -> dict[str, CocoPanopticAnnotations]:
        for table in self._tables.values():
            root, folder = self.files.root, table.path.with_suffix("")
            for name in names_outside(root, folder, table.png_files.tolist()):
                raise UserError(outside_text(table.path, name, root))
        return {s: annotations_of(table, CITYSCAPES) for s, table in self._tables.items()}

    @cached_property
    def _positions(self) -> dict[str, dict[str, int]]:
        """Split -> image id -> its place in the JSON file."""
        return {
            split: {str(image_id): n for n, image_id in enumerate(table.annotated_ids.tolist())}
            for split, table in self._tables.items()
        }

    def _check_folders(self) -> None:
        root = self.files.root
        tables = [self.files.panoptic(s).relative_to(root) for s in self.files.labelled_splits]
        check_paths(root, [str(t.with_suffix("")) for t in tables], [str(t) for t in tables])

    def _read_runs(self, item: Item, size: tuple[int, int] | None) -> SegmentRuns:
        annotations = self._annotations[item.split]
        folder = annotations.path.with_suffix("")
        position = self._positions[item.split][item.image_id]
        return read_segment_runs(annotations, position, folder, size)
