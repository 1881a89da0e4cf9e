"""Any data set with other classes than its own, see `panoptic.class_changes`."""

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.inspection.inspector import (
    CONTENT_KINDS,
    Finding,
    ImageInspection,
    Inspectable,
    Inspector,
    content_findings,
)
from axialseg.datasets.sample import LabelledDataset, PanopticDataset, PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.class_changes import ChangedClasses, ClassChanges


class ChangedDataset:
    """A data set whose samples are in other classes."""

    def __init__(self, dataset: PanopticDataset, changes: ClassChanges) -> None:
        """Changes the classes.

        Raises:
            UserError: see `ClassChanges.of`.
        """
        self.original = dataset
        self.changes = changes
        self.changed = changes.of(dataset.categories)
        self.categories = self.changed.categories

    def __len__(self) -> int:
        """Number of images."""
        return len(self.original)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index`; raises as the original."""
        return _changed(self.original.read(index), self.changed)

    def class_presence(self) -> NDArray[np.bool_]:
        """Which classes each image holds, bool ``[N, C]``, C = `categories.semantic_channels`.

        Raises:
            UserError: the images have no ground truth.
        """
        if not isinstance(self.original, LabelledDataset):
            raise UserError(f"{type(self.original).__name__} has no ground truth to count.")
        return self.changed.presence(self.original.class_presence())

    def inspector(self) -> Inspector:
        """What checks all files, see `inspection.Inspector`; raises as the original."""
        assert isinstance(self.original, Inspectable)
        return ChangedInspector(self.original.inspector(), self.changed)


class ChangedInspector:
    """An inspector that counts in other classes."""

    def __init__(self, original: Inspector, changed: ChangedClasses) -> None:
        """Keeps the parts."""
        self.original = original
        self.changed = changed
        self.categories = changed.categories

    def __len__(self) -> int:
        """Number of images."""
        return len(self.original)

    def check_files(self) -> list[Finding]:
        """As the original."""
        return self.original.check_files()

    def check_tables(self) -> list[Finding]:
        """As the original."""
        return self.original.check_tables()

    def inspect(self, index: int) -> ImageInspection:
        """Image `index`; what is said of its classes is said of the new ones."""
        image = self.original.inspect(index)
        if not image.has_truth:
            return image
        rows = self.changed.rows(image.class_ids, image.is_crowd)
        length = len(rows.class_ids) + 1
        # Areas stay exact in the float64 of `bincount` up to 2^53.
        areas = np.bincount(rows.numbers[1:], image.areas, length).astype(np.int64)
        kept = [finding for finding in image.findings if finding.kind not in CONTENT_KINDS]
        known = rows.class_ids, areas[1:], rows.is_crowd
        said = content_findings(image.file_name, *known, self.categories)
        return image._replace(
            class_ids=rows.class_ids,
            areas=areas[1:],
            is_crowd=rows.is_crowd,
            void=image.void + int(areas[0]),
            findings=(*kept, *said),
        )

    def sample(self, index: int) -> PanopticSample:
        """Image `index`; raises as the original."""
        return _changed(self.original.sample(index), self.changed)


def _changed(sample: PanopticSample, changed: ChangedClasses) -> PanopticSample:
    if sample.segments is None:
        return sample
    segments = changed.segments(sample.segments)
    segments.id_map.setflags(write=False)
    return sample._replace(segments=segments)
