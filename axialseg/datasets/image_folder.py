"""Images without ground truth: the test set of a data set, or pictures of one's own."""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.images import ImagesInspector
from axialseg.datasets.inspection.inspector import Inspector, list_files
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.strict_values import is_writable
from axialseg.panoptic.categories import Categories

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageFolder:
    """All images of a folder and of the folders in it, in the order of their names.

    An image's id is its name below the folder without the suffix, as ``sub/a``; where two would
    have the same, ``a.jpg`` and ``a.png``, they keep their suffix.
    """

    def __init__(
        self,
        root: str | Path,
        categories: Categories,
        apply_exif: bool = False,
    ) -> None:
        """Lists the files.

        Args:
            root: folder of the images; hidden files and folders are left out.
            categories: the classes that are to be found in them.
            apply_exif: see `read_rgb`; True for photographs that are to be seen upright.

        Raises:
            UserError: the folder is missing or holds no images.
        """
        self.folder = Path(root)
        if not self.folder.is_dir():
            raise UserError(f"{root} does not exist; give the folder of the images.")
        names = sorted(
            name
            for name in list_files(self.folder, SUFFIXES)
            if not any(part.startswith(".") for part in name.split("/"))
        )
        if not names:
            raise UserError(f"{root} holds no image ({', '.join(SUFFIXES)}); unpack them there.")
        strange = [name for name in names if not is_writable(name)]
        if strange:
            raise UserError(
                f"{root} holds the file {strange[0]!r}, whose name is not a text; rename it."
            )
        self.names: NDArray[np.str_] = np.array(names, np.str_)
        stems = Counter(name.rpartition(".")[0] for name in names)
        self._shared = frozenset(stem for stem, count in stems.items() if count > 1)
        self.categories = categories
        self.apply_exif = apply_exif

    def inspector(self) -> Inspector:
        """What checks the images, see `inspection.Inspector`."""
        folder = self.folder
        return ImagesInspector(self.categories, folder, self.names, folder, self.apply_exif)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index`.

        Raises:
            UserError: the image is missing or damaged.
        """
        name = str(self.names[index])
        path, stem = self.folder / name, name.rpartition(".")[0]
        image = read_rgb(path, self.apply_exif)
        image.setflags(write=False)
        image_id = name if stem in self._shared else stem
        return PanopticSample(image, None, image_id, str(path), name)
