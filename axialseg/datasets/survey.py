"""What a look at some images of a data set tells: sizes, things, how much of each class."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.sample import PanopticDataset
from axialseg.errors import UserError

LOOKED_AT = 200  # images; more would not change a rule and take more than seconds
SMALL = 0.25  # quantile of the areas of a class that stands for its small segments
RAREST, COMMONEST = 4.0, 0.25  # limits of a class weight


class Survey(NamedTuple):
    """Facts about a data set.

    Attributes:
        images: of the whole set.
        size: (height, width) in pixels, the medians.
        decoded_bytes: of an average image with its ids.
        void_share: share of the pixels that are void or crowds.
        class_share: float64 ``[K]``, share of the labelled pixels, in the order of the classes.
        small_stuff: share of an image's pixels that a small region of the class has whose regions
            are smallest; None without stuff.
        small_thing: the same of things.
        most_things: in one image.
    """

    images: int
    size: tuple[int, int]
    decoded_bytes: int
    void_share: float
    class_share: NDArray[np.float64]
    small_stuff: float | None
    small_thing: float | None
    most_things: int


def survey(dataset: PanopticDataset) -> Survey:
    """Reads images from all over the set.

    Raises:
        UserError: it is empty, or an image has no ground truth or cannot be read.
    """
    count = len(dataset)
    if not count:
        raise UserError("the training set has no image")
    categories = dataset.categories
    places = np.unique(np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(int))
    sizes, pixels, most_things = [], np.zeros(max(categories.class_ids) + 1), 0
    shares: dict[int, list[float]] = {class_id: [] for class_id in categories.class_ids}
    for place in places:
        sample = dataset.read(int(place))
        if sample.segments is None:
            raise UserError(f"{sample.file_name} has no ground truth to learn from")
        sizes.append(sample.image.shape[:2])
        areas, classes = sample.segments.areas(), sample.segments.class_ids
        is_counted = (areas > 0) & ~sample.segments.is_crowd
        is_thing = categories.is_thing_table[classes] & is_counted
        most_things = max(most_things, int(is_thing.sum()))
        np.add.at(pixels, classes[is_counted], areas[is_counted])
        size = sample.segments.id_map.size
        for area, class_id in zip(areas[is_thing], classes[is_thing], strict=True):
            shares[int(class_id)].append(area / size)
        for class_id in np.unique(classes[is_counted & ~is_thing]):
            area = areas[is_counted & (classes == class_id)].sum()
            shares[int(class_id)].append(area / size)
    small = {key: float(np.quantile(found, SMALL)) for key, found in shares.items() if found}
    areas_of_images = [height * width for height, width in sizes]
    area = np.mean(areas_of_images)
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    return Survey(
        count,
        (height, width),
        int(area * (3 + 4)),  # an RGB image and int32 ids
        float(1 - pixels.sum() / sum(areas_of_images)),
        pixels[list(categories.class_ids)] / max(pixels.sum(), 1),
        min((small[key] for key in categories.stuff_ids if key in small), default=None),
        min((small[key] for key in categories.thing_ids if key in small), default=None),
        most_things,
    )


def balanced_weights(class_share: NDArray[np.float64]) -> list[float]:
    """Weights of classes that make rare ones count more, without making them paint over others.

    A class counts by the inverse root of its share of the pixels, within limits; all together
    leave the mean over the pixels at 1, so that the rate of learning need not change.

    Args:
        void_share: share of the pixels that are void or crowds.
        class_share: float64 ``[K]``, share of the labelled pixels; 0 for a class that is not there.
    """
    if not class_share.any():
        return [1.0] * len(class_share)
    typical = np.median(class_share[class_share > 0])
    root = np.sqrt(typical / np.maximum(class_share, 1e-9)).clip(COMMONEST, RAREST)
    return [round(float(value), 4) for value in root / (root * class_share).sum()]
