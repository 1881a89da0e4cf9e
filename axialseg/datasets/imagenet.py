"""ImageNet: one folder of images for each class; any data set in that layout is read alike."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.image_classes import ImageClasses, ImageSample
from axialseg.datasets.image_file import read_rgb
from axialseg.errors import UserError
from axialseg.formats.imagenet import class_names, validation_classes

SUFFIXES = (".jpeg", ".jpg", ".png")


class ImageNet:
    """The images of ``<split>/<class>/``, by class and name.

    The classes are the folders of ``train/`` in sorted order, for all splits (of the split itself
    if there is no ``train/``, as where a model is only evaluated). A split without folders is taken
    as the official validation images, whose classes a list beside them tells; see
    `axialseg.formats.imagenet`, from where the names of the classes come too.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        """Lists the files; 1.3 million names take 50 MB, shared by all loader processes.

        Args:
            root: folder of the data set.
            split: a folder in it, ``train`` or ``val``.

        Raises:
            UserError: a folder is missing or empty, a class is not among the training images', or
                an image is in no list.
        """
        root = Path(root)
        self.folder = root / split
        for folder in (root, self.folder):
            if not folder.is_dir():
                raise UserError(
                    f"{folder} does not exist; set data.root to the folder that holds train/ and "
                    "val/, each with one folder of images for each class."
                )
        own = _folders(self.folder)
        listed = {} if own else validation_classes(root)
        ids = _folders(root / "train") or own or sorted(set(listed.values()))
        names = class_names(root)
        self.categories = ImageClasses(tuple(ids), tuple(names.get(key, key) for key in ids))
        self._labels = {key: label for label, key in enumerate(ids)}
        if own:
            self._read_class_folders(own)
        else:
            self._read_flat_folder(listed, root)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def read(self, index: int) -> ImageSample:
        """Reads image `index`.

        Raises:
            UserError: the image is missing or damaged.
        """
        image_id = os.fsdecode(self._image_ids[index])
        path = self.folder / image_id
        image = read_rgb(path)
        image.setflags(write=False)
        return ImageSample(image, int(self.labels[index]), image_id, str(path))

    def _read_class_folders(self, class_ids: list[str]) -> None:
        names: list[bytes] = []
        counts = np.zeros(len(self.categories), np.int64)
        for class_id in class_ids:
            found = _images(self.folder / class_id)
            if class_id not in self._labels:
                raise UserError(
                    f"{self.folder / class_id} is of no class that {self.folder.parent / 'train'} "
                    "has a folder for; move it away, or add the training images of the class."
                )
            if not found:
                raise UserError(
                    f"{self.folder / class_id} holds no image ({', '.join(SUFFIXES)}); unpack the "
                    "images of the class there, or remove the folder."
                )
            names += [os.fsencode(f"{class_id}/{name}") for name in found]
            counts[self._labels[class_id]] = len(found)
        self._keep(names, np.repeat(np.arange(len(counts)), counts))

    def _read_flat_folder(self, listed: dict[str, str], root: Path) -> None:
        names = _images(self.folder)
        if not names:
            raise UserError(
                f"{self.folder} holds neither folders of classes nor images; unpack the images "
                "there, one folder for each class."
            )
        if not listed:
            raise UserError(
                f"{self.folder} holds no folders of classes, and nothing in {root} tells the "
                "classes of its images; sort them into one folder for each class, or put the "
                "development kit ILSVRC2012_devkit_t12/ or LOC_val_solution.csv there."
            )
        labels = np.zeros(len(names), np.int64)
        for place, name in enumerate(names):
            class_id = listed.get(name.rpartition(".")[0])
            if class_id is None:
                raise UserError(
                    f"{self.folder / name} is not in the list of validation images in {root}; "
                    "remove it, or sort the images into one folder for each class."
                )
            if class_id not in self._labels:
                raise UserError(
                    f"{self.folder / name} is of class {class_id}, for which {root / 'train'} has "
                    "no folder; add the training images of the class."
                )
            labels[place] = self._labels[class_id]
        self._keep([os.fsencode(name) for name in names], labels)

    def _keep(self, names: list[bytes], labels: NDArray[np.int64]) -> None:
        """Keeps the images in arrays: processes share these, but copy what counts references."""
        self._image_ids = np.array(names)
        self.labels = labels.astype(np.int32)
        """int32 ``[N]``, the label of each image."""


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _images(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted."""
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))
