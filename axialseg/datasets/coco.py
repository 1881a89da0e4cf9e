"""COCO panoptic data, and any data in its format, straight from the official files.

Layout: an image folder, a panoptic JSON file and a folder of id PNGs, named relative to the root::

    train2017/000000000009.jpg
    annotations/panoptic_train2017.json
    annotations/panoptic_train2017/000000000009.png

The images are those that the JSON file annotates, in its order. Test sets have a JSON file that
lists images (`annotations/image_info_test-dev2017.json`) and no PNGs.
"""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.annotation_index import indexed_table
from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.coco import CocoInspector
from axialseg.datasets.inspection.images import ImagesInspector
from axialseg.datasets.inspection.inspector import Inspector, missing_names
from axialseg.datasets.paths import check_paths, names_outside, outside_text
from axialseg.datasets.sample import PanopticSample, PanopticTruth
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import (
    CocoPanopticAnnotations,
    annotations_of,
    class_presence,
    listed_categories,
    read_image_list,
    read_segment_runs,
    read_segments,
    without_images,
)
from axialseg.formats.panoptic_table import PanopticTable
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories


class CocoPanoptic:
    """One split of a data set in COCO panoptic format.

    The constructor only looks whether everything is there; the JSON file is read when it is first
    needed, before loader workers start, and as arrays, so that they share it.
    """

    def __init__(
        self,
        root: str | Path,
        image_folder: str,
        annotation_file: str,
        panoptic_folder: str | None,
        categories: Categories | None = None,
        apply_exif: bool = False,
        skip_invalid: bool = False,
    ) -> None:
        """Finds the files.

        Args:
            root: folder that the other paths are relative to.
            image_folder: folder of the images.
            annotation_file: panoptic JSON file, or of a test set the one that lists its images.
            panoptic_folder: folder of the id PNGs; None for a test set, whose samples have no
                ground truth.
            categories: the classes; None reads them from the JSON file.
            apply_exif: turns photographs as their Exif data say, see `read_rgb`; for annotations
                that were drawn in a viewer that does.
            skip_invalid: leaves out images whose files are missing or whose rows are wrong, and
                tells their number; else such a data set is refused.

        Raises:
            UserError: one of the paths does not exist.
        """
        root = self.root = Path(root)
        self.image_folder = root / image_folder
        self.annotation_file = root / annotation_file
        self.panoptic_folder = None if panoptic_folder is None else root / panoptic_folder
        self._given_categories = categories
        self.apply_exif = apply_exif
        self.skip_invalid = skip_invalid
        folders = [image_folder] if panoptic_folder is None else [image_folder, panoptic_folder]
        check_paths(root, folders, [annotation_file])
        if panoptic_folder is None and categories is None:
            raise UserError(
                f"{self.annotation_file} lists no panoptic classes; give data.val_dataset."
                "categories, or a panoptic_folder with its panoptic_*.json."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is read: a process that is not forked maps the index of the JSON itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_annotations", "_images")}

    @cached_property
    def _annotations(self) -> CocoPanopticAnnotations:
        assert self.panoptic_folder is not None
        annotations = self._judge(indexed_table(self.annotation_file))
        self._refuse_outside(self.image_folder, annotations.image_files)
        self._refuse_outside(self.panoptic_folder, annotations.png_files)
        if self.skip_invalid:
            missing = self._missing(annotations)
            if missing:
                reason = "a file does not exist"
                annotations = without_images(annotations, missing, reason)
        return annotations

    def _judge(self, table: PanopticTable) -> CocoPanopticAnnotations:
        """The annotations, checked."""
        return annotations_of(table, self._given_categories, skip_invalid=self.skip_invalid)

    def _missing(self, annotations: CocoPanopticAnnotations) -> list[int]:
        """Positions of the annotated images of which a file is not there."""
        assert self.panoptic_folder is not None
        folders = (self.image_folder, self.panoptic_folder)
        absent = [
            set(missing_names(folder, files.tolist()))
            for folder, files in zip(
                folders, (annotations.image_files, annotations.png_files), strict=True
            )
        ]
        pairs = zip(annotations.image_files.tolist(), annotations.png_files.tolist(), strict=True)
        return [n for n, (image, png) in enumerate(pairs) if image in absent[0] or png in absent[1]]

    def _refuse_outside(self, folder: Path, names: NDArray[np.str_]) -> None:
        for name in names_outside(self.root, folder, names.tolist()):
            raise UserError(outside_text(self.annotation_file, name, self.root))

    @cached_property
    def _images(self) -> tuple[NDArray[Any], NDArray[np.str_]]:
        """Ids and file names."""
        if self.panoptic_folder is None:
            image_ids, image_files = read_image_list(self.annotation_file)
            self._refuse_outside(self.image_folder, image_files)
            return image_ids, image_files
        return self._annotations.image_ids, self._annotations.image_files

    @property
    def categories(self) -> Categories:
        """The classes, as given or as listed in the JSON file."""
        return self._given_categories or self._annotations.categories

    def __len__(self) -> int:
        """Number of annotated (or of a test set: listed) images."""
        return len(self._images[0])

    def read(self, index: int) -> PanopticSample:
        """Reads image `index` and its segments.

        Raises:
            UserError: the image or the PNG is missing or damaged, or they do not fit together.
        """
        image_ids, image_files = self._images
        name = str(image_files[index])
        path = file_below(self.image_folder, name)
        image = read_rgb(path, self.apply_exif)
        image.setflags(write=False)
        segments = None
        if self.panoptic_folder is not None:
            size = image.shape[:2]
            segments = read_segments(self._annotations, index, self.panoptic_folder, size)
            segments.id_map.setflags(write=False)
        return PanopticSample(image, segments, image_ids[index].item(), str(path), name)

    def read_truth(self, index: int) -> PanopticTruth:
        """Reads the segments of image `index`, and not the image.

        Raises:
            UserError: the PNG is missing or damaged, or does not fit the JSON file.
        """
        image_ids, image_files = self._images
        segments = None
        if self.panoptic_folder is not None:
            segments = read_segment_runs(self._annotations, index, self.panoptic_folder)
        path = self.image_folder / str(image_files[index])
        return PanopticTruth(segments, image_ids[index].item(), str(path))

    def inspector(self) -> Inspector:
        """What checks all files, see `inspection.Inspector`.

        Raises:
            UserError: the JSON file cannot be read, or lists no classes.
        """
        if self.panoptic_folder is None:
            _, files = self._images
            folder = self.image_folder
            return ImagesInspector(
                self.categories, folder, files, self.annotation_file, self.apply_exif
            )
        table = indexed_table(self.annotation_file)
        categories = self._given_categories or listed_categories(table)
        return self._inspector_of(table, self.panoptic_folder, categories)

    def _inspector_of(
        self,
        table: PanopticTable,
        panoptic_folder: Path,
        categories: Categories,
        void_categories: Collection[int] = (),
    ) -> CocoInspector:
        """The inspector for a table and its classes."""
        return CocoInspector(
            self.root,
            table,
            self.image_folder,
            panoptic_folder,
            categories,
            void_categories,
            self.apply_exif,
            self.skip_invalid,
        )

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, C]``, C = `categories.semantic_channels`."""
        return class_presence(self._annotations)
