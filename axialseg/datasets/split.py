"""One data set as two: a share of its images validates, the others train."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.inspection.inspector import Inspectable, Inspector
from axialseg.datasets.sample import LabelledDataset, PanopticDataset, PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories


class Part:
    """Some images of a data set."""

    def __init__(self, whole: PanopticDataset, indices: Sequence[int]) -> None:
        """Keeps which.

        Args:
            whole: all images.
            indices: of the images of this part.
        """
        self.whole = whole
        self.indices = indices

    @property
    def categories(self) -> Categories:
        """The classes of the whole."""
        return self.whole.categories

    def __len__(self) -> int:
        """Number of images of this part."""
        return len(self.indices)

    def read(self, index: int) -> PanopticSample:
        """Reads one image."""
        return self.whole.read(self.indices[index])


class LabelledPart(Part):
    """The same of a data set that can check its files and tell what its images hold."""

    def inspector(self) -> Inspector:
        """What checks the files of the whole."""
        assert isinstance(self.whole, Inspectable)
        return self.whole.inspector()

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, C]``."""
        assert isinstance(self.whole, LabelledDataset)
        return self.whole.class_presence()[list(self.indices)]


def split(dataset: PanopticDataset, val_share: float, seed: int) -> tuple[Part, Part]:
    """Training and validation part, which follow from the seed; each in the order of the whole.

    Args:
        dataset: all images.
        val_share: share of them that validates, in (0, 1); at least one image does.
        seed: of the draw.

    Raises:
        UserError: `val_share` is no such share, or there is one image only.
    """
    count = len(dataset)
    if not 0 < val_share < 1:
        raise UserError(f"data.val_share={val_share} is not a share of the images; write it as 0.1")
    if count < 2:
        raise UserError("data.val_share needs two images at least; there are not so many")
    chosen = min(max(round(count * val_share), 1), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count)
    is_full = isinstance(dataset, Inspectable) and isinstance(dataset, LabelledDataset)
    part = LabelledPart if is_full else Part
    validation, training = sorted(order[:chosen].tolist()), sorted(order[chosen:].tolist())
    return part(dataset, training), part(dataset, validation)
