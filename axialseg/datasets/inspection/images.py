"""Checks images that have no ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.inspector import (
    Finding,
    ImageInspection,
    compare_names,
    inspect_photograph,
    no_truth,
)
from axialseg.datasets.sample import PanopticSample
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories


class ImagesInspector:
    """Images of one folder."""

    def __init__(
        self,
        categories: Categories,
        folder: Path,
        names: Sequence[str] | NDArray[Any],
        listed_in: Path,
        apply_exif: bool = False,
    ) -> None:
        """Keeps the names.

        Args:
            categories: the classes, which no image shows.
            folder: of the images.
            names: below the folder.
            listed_in: the file that has the names, or the folder itself.
            apply_exif: see `read_rgb`.
        """
        self.categories = categories
        self.folder = folder
        self.names: NDArray[np.str_] = np.array(names, np.str_)
        self.listed_in = listed_in
        self.apply_exif = apply_exif

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def check_files(self) -> list[Finding]:
        """Compares the folder with the names."""
        cure = f"unpack the images into {self.folder}"
        names = self.names.tolist()
        return list(compare_names(self.folder, names, [], cure, self.listed_in))

    def check_tables(self) -> list[Finding]:
        """Nothing: a list of images cannot contradict itself."""
        return []

    def inspect(self, index: int) -> ImageInspection:
        """Reads one image."""
        path = file_below(self.folder, str(self.names[index]))
        size, findings = inspect_photograph(path, self.apply_exif)
        return no_truth(str(path), size, findings, is_complete=size is not None)

    def sample(self, index: int) -> PanopticSample:
        """One image, see `Inspector.sample`."""
        name = str(self.names[index])
        path = file_below(self.folder, name)
        image = read_rgb(path, self.apply_exif)
        return PanopticSample(image, None, path.stem, str(path), name)
