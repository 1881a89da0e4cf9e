"""What every panoptic data set hands out."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, SegmentRuns


class PanopticSample(NamedTuple):
    """One image with its ground truth, both at the original size. The arrays are read-only.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        segments: ground truth ``[H, W]``, or None where none is published (test images).
        image_id: id in the official files.
        file_name: path of the image, for messages.
        name: the same below the folder of the images, as ``sub/a.jpg``; what is written about the
            image is called by it, so no two images of a data set share it.
    """

    image: NDArray[np.uint8]
    segments: PanopticSegments | None
    image_id: int | str
    file_name: str
    name: str


class PanopticDataset(Protocol):
    """A data set as the loaders see it."""

    @property
    def categories(self) -> Categories:
        """The classes; known before any image is read."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> PanopticSample:
        """Reads one image with its ground truth."""
        ...


class PanopticTruth(NamedTuple):
    """The ground truth of one image, without it; the fields are those of `PanopticSample`."""

    segments: SegmentRuns | None
    image_id: int | str
    file_name: str


@runtime_checkable
class TruthDataset(Protocol):
    """A data set that can read the ground truth alone, which is several times faster."""

    def read_truth(self, index: int) -> PanopticTruth:
        """Reads the ground truth of one image."""
        ...


@runtime_checkable
class LabelledDataset(Protocol):
    """A data set that can tell what its images hold without giving them out."""

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, C]``, C = `categories.semantic_channels`."""
        ...
