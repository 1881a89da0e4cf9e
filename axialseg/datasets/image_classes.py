"""What every data set of classified images hands out."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageClasses:
    """The classes of whole images; the label of a class is its place.

    Attributes:
        ids: of the classes in the data set's files, in the order of the labels (ImageNet: WordNet
            ids, sorted).
        names: for people.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.ids)


def numbered_classes(count: int) -> ImageClasses:
    """Classes without names."""
    names = tuple(f"class {number}" for number in range(count))
    return ImageClasses(names, names)


class ImageSample(NamedTuple):
    """One image with its class. The array is read-only.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB, at the original size.
        label: place of its class in `ImageClasses`.
        image_id: path below the folder of the split.
        file_name: path of the image, for messages and pictures.
    """

    image: NDArray[np.uint8]
    label: int
    image_id: str
    file_name: str


class ImageDataset(Protocol):
    """A data set as the loaders see it."""

    @property
    def categories(self) -> ImageClasses:
        """The classes; known before any image is read."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> ImageSample:
        """Reads one image with its class."""
        ...
