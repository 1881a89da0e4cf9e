"""What an evaluation keeps of each image: counts, from which all scores of a data set follow.

They are integers and a few scores, a kilobyte or so, and an image's do not depend on any other
image. So images may be scored in any order, on any number of processes, be written to a file and
read again: the sums are the same to the last bit.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.metrics.boundary import boundary_classes, boundary_overlap
from axialseg.metrics.segment_overlap import SegmentOverlap, run_overlap, segment_overlap
from axialseg.metrics.semantic_iou import class_confusion
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, SegmentRuns


class ImageScore(NamedTuple):
    """Counts of one image.

    Attributes:
        position: of the image in its data set.
        file_name: of the image.
        overlap: of the segments.
        confusion: int64 ``[3, n]``: true and predicted class, as in `class_confusion`, and how
            many pixels (not 0) have them.
        scores: float64 ``[P]`` of the predicted segments; None if they have none.
        boundary: see `boundary_overlap`; None unless boundaries are scored.
        boundary_classes: see `boundary_classes`; None likewise.
        removed: name of a limit of the post-processing -> class id -> how many segments of that
            class it has removed.
        capacity: things that could have been predicted; None: any number.
        image_id: as the official files have it.
    """

    position: int
    file_name: str
    overlap: SegmentOverlap
    confusion: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    boundary: NDArray[np.int64] | None = None
    boundary_classes: NDArray[np.int64] | None = None
    removed: Mapping[str, Mapping[int, int]] = {}
    capacity: int | None = None
    image_id: int | str = 0

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold; `from_json` makes the same of it again."""
        arrays = {
            name: value.tolist()
            for name, value in (self._asdict() | self.overlap._asdict()).items()
            if isinstance(value, np.ndarray)
        }
        places = np.nonzero(self.overlap.pixels)  # most pairs share nothing
        arrays["pixels"] = [*(place.tolist() for place in places), self.overlap.pixels[places]]
        arrays["pixels"][2] = arrays["pixels"][2].tolist()
        names = ("position", "file_name", "capacity", "image_id")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"removed": dict(self.removed)} | arrays

    @staticmethod
    def from_json(row: dict[str, Any]) -> "ImageScore":
        """Reads what `to_json` has written."""
        target_class, predicted_class = (
            np.array(row[name], np.int64) for name in ("target_class", "predicted_class")
        )
        pixels = np.zeros((len(target_class) + 1, len(predicted_class) + 1), np.int64)
        y, x, counts = row["pixels"]
        pixels[y, x] = counts
        is_crowd = np.array(row["target_is_crowd"], bool)
        return ImageScore(
            row["position"],
            row["file_name"],
            SegmentOverlap(pixels, target_class, is_crowd, predicted_class),
            np.array(row["confusion"], np.int64).reshape(3, -1),
            None if row.get("scores") is None else np.array(row["scores"], np.float64),
            _whole(row.get("boundary")),
            _whole(row.get("boundary_classes")),
            {
                limit: {int(class_id): count for class_id, count in counts.items()}
                for limit, counts in row["removed"].items()
            },
            row["capacity"],
            row["image_id"],
        )


def score_image(
    position: int,
    file_name: str,
    prediction: PanopticSegments,
    semantic: NDArray[np.integer],
    target: PanopticSegments,
    categories: Categories,
    with_boundary: bool = False,
) -> ImageScore:
    """Counts one image.

    Args:
        position: of the image in its data set.
        file_name: of the image.
        prediction: its segments, at the size of the ground truth.
        semantic: predicted class ids ``[H, W]``.
        target: ground truth.
        categories: the classes.
        with_boundary: count boundaries as well.

    Raises:
        ValueError: the maps differ in size, or hold a class id that is none of the data set's.
    """
    true = target.semantic_map(categories.ignore_class)
    score = ImageScore(
        position,
        file_name,
        segment_overlap(prediction, target),
        _sparse(class_confusion(semantic, true, categories)),
    )
    if not with_boundary:
        return score
    return score._replace(
        boundary=boundary_overlap(prediction, target),
        boundary_classes=boundary_classes(semantic, true, categories),
    )


def score_runs(
    position: int,
    file_name: str,
    prediction: SegmentRuns,
    target: SegmentRuns,
    categories: Categories,
    with_boundary: bool = False,
) -> ImageScore:
    """The same for a prediction whose classes are those of its segments; faster.

    Raises:
        ValueError: see `score_image`.
    """
    if with_boundary:
        painted = prediction.paint()
        semantic = painted.semantic_map(categories.ignore_class)
        return score_image(
            position, file_name, painted, semantic, target.paint(), categories, with_boundary
        )
    overlap = run_overlap(prediction, target)
    void = len(categories)
    true, predicted = (
        np.append(void, categories.positions(class_ids))
        for class_ids in (overlap.target_class, overlap.predicted_class)
    )
    # Few classes are in an image, so a table of all pairs is mostly empty.
    y, x = np.nonzero(overlap.pixels[1:])
    codes, pair_of = np.unique(true[y + 1] * (void + 1) + predicted[x], return_inverse=True)
    counts = np.bincount(pair_of, overlap.pixels[y + 1, x], len(codes)).astype(np.int64)
    confusion = np.stack([*np.divmod(codes, void + 1), counts])
    return ImageScore(position, file_name, overlap, confusion)


def _sparse(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows, columns and values of what is not 0, ``[3, n]``."""
    places = np.nonzero(table)
    return np.stack([*places, table[places]])


def _whole(values: list[Any] | None) -> NDArray[np.int64] | None:
    return None if values is None else np.array(values, np.int64)


def plain_id(image_id: Any) -> int | str:
    """An image's id that JSON can hold; NumPy's integers are none."""
    return image_id if isinstance(image_id, str) else int(image_id)
