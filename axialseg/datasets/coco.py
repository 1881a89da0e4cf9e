"""COCO panoptic data, and any data in its format, straight from the official files.

Layout: an image folder, a panoptic JSON file and a folder of id PNGs, named relative to the root::

    train2017/000000000009.jpg
    annotations/panoptic_train2017.json
    annotations/panoptic_train2017/000000000009.png

The images are those that the JSON file annotates, in its order.
"""

from functools import cached_property
from pathlib import Path

from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import (
    CocoPanopticAnnotations,
    read_annotations,
    read_segments,
)
from axialseg.panoptic.categories import Categories


class CocoPanoptic:
    """One split of a data set in COCO panoptic format.

    The constructor only looks whether everything is there; the JSON file is read when it is first
    needed, before loader workers start, so that they share it.
    """

    def __init__(
        self,
        root: str | Path,
        image_folder: str,
        annotation_file: str,
        panoptic_folder: str,
        categories: Categories | None = None,
    ) -> None:
        """Finds the files.

        Args:
            root: folder that the other paths are relative to.
            image_folder: folder of the images.
            annotation_file: panoptic JSON file.
            panoptic_folder: folder of the id PNGs.
            categories: the classes; None reads them from the JSON file.

        Raises:
            UserError: one of the paths does not exist.
        """
        root = Path(root)
        self.image_folder = root / image_folder
        self.annotation_file = root / annotation_file
        self.panoptic_folder = root / panoptic_folder
        self._given_categories = categories
        if not root.is_dir():
            raise UserError(
                f"{root} does not exist; set data.root to the folder that holds {image_folder} "
                f"and {annotation_file}."
            )
        for folder in (self.image_folder, self.panoptic_folder):
            if not folder.is_dir():
                raise UserError(
                    f"{folder} does not exist; unpack the data set's files there, or set data.root "
                    f"to the folder that holds {folder.relative_to(root)}."
                )
        if not self.annotation_file.is_file():
            raise UserError(
                f"{self.annotation_file} does not exist; unpack the panoptic annotations there, "
                f"or set data.root to the folder that holds {annotation_file}."
            )

    @cached_property
    def _annotations(self) -> CocoPanopticAnnotations:
        return read_annotations(self.annotation_file, self._given_categories)

    @property
    def categories(self) -> Categories:
        """The classes, as given or as listed in the JSON file."""
        return self._given_categories or self._annotations.categories

    def __len__(self) -> int:
        """Number of annotated images."""
        return len(self._annotations.image_ids)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index` and its segments.

        Raises:
            UserError: the image or the PNG is missing or damaged, or they do not fit together.
        """
        path = self.image_folder / str(self._annotations.image_files[index])
        image = read_rgb(path)
        segments = read_segments(self._annotations, index, self.panoptic_folder, image.shape[:2])
        image.setflags(write=False)
        segments.id_map.setflags(write=False)
        return PanopticSample(image, segments, self._annotations.image_ids[index].item(), str(path))
