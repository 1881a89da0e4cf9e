"""What a split holds: pixels, segments and images of each class, crowds, sizes."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.inspection.inspector import ImageInspection
from axialseg.panoptic.categories import Categories

AREA_BINS = 26  # bin k: 2^k to 2^(k + 1) - 1 pixels


@dataclass
class SplitStatistics:
    """Counts over images; C = `categories.semantic_channels`, entry c of an array is class id c.

    Attributes:
        channels: C.
        images: number of images that can be read.
        labelled: number of them whose ground truth can be read.
        sizes: (height, width) -> images.
        pixels: int64 ``[C]``, crowds included.
        segments: int64 ``[C]``, with at least one pixel, crowds not included.
        images_with: int64 ``[C]``, images that show the class, crowds included.
        crowds: int64 ``[C]``, crowd regions.
        crowd_pixels: int64 ``[C]``.
        void: pixels without a class.
        thing_areas: int64 ``[26]``, things by their area, see `AREA_BINS`.
        things_per_image: number of things -> images.
    """

    channels: int
    images: int = 0
    labelled: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(init=False)
    segments: NDArray[np.int64] = field(init=False)
    images_with: NDArray[np.int64] = field(init=False)
    crowds: NDArray[np.int64] = field(init=False)
    crowd_pixels: NDArray[np.int64] = field(init=False)
    void: int = 0
    thing_areas: NDArray[np.int64] = field(init=False)
    things_per_image: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in ("pixels", "segments", "images_with", "crowds", "crowd_pixels"):
            setattr(self, name, np.zeros(self.channels, np.int64))
        self.thing_areas = np.zeros(AREA_BINS, np.int64)

    def add(self, image: ImageInspection, categories: Categories) -> None:
        """Counts one image."""
        if image.size is not None:
            self.images += 1
            self.sizes[image.size] += 1
        if not image.has_truth:
            return
        self.labelled += 1
        self.void += image.void
        is_seen = image.areas > 0
        class_ids, areas = image.class_ids[is_seen], image.areas[is_seen]
        is_crowd = image.is_crowd[is_seen]
        self.pixels += self._per_class(class_ids, areas)
        self.segments += self._per_class(class_ids[~is_crowd])
        self.images_with += self._per_class(np.unique(class_ids))
        self.crowds += self._per_class(class_ids[is_crowd])
        self.crowd_pixels += self._per_class(class_ids[is_crowd], areas[is_crowd])
        is_thing = categories.is_thing_table[class_ids] & ~is_crowd
        bins = np.log2(areas[is_thing]).astype(np.int64).clip(max=AREA_BINS - 1)
        self.thing_areas += np.bincount(bins, minlength=AREA_BINS)
        self.things_per_image[int(is_thing.sum())] += 1

    def merge(self, other: "SplitStatistics") -> None:
        """Adds the counts of other images."""
        for name, value in vars(other).items():
            if name != "channels":
                setattr(self, name, getattr(self, name) + value)

    def as_json(self, categories: Categories) -> dict[str, Any]:
        """What JSON can hold, classes by their names."""
        columns = ("pixels", "segments", "images_with", "crowds", "crowd_pixels")
        classes = [
            {"class_id": c.class_id, "name": c.name, "isthing": int(c.is_thing)}
            | {name: int(getattr(self, name)[c.class_id]) for name in columns}
            for c in categories.classes
        ]
        sizes = [
            {"height": height, "width": width, "images": count}
            for (height, width), count in self.sizes.most_common()
        ]
        return {
            "images": self.images,
            "labelled": self.labelled,
            "void_pixels": self.void,
            "classes": classes,
            "sizes": sizes,
            "thing_areas_log2": self.thing_areas.tolist(),
            "things_per_image": dict(sorted(self.things_per_image.items())),
        }

    def _per_class(
        self, class_ids: NDArray[np.int64], weights: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        # Sums of pixels stay exact in the float64 of `bincount` up to 2^53.
        counts = np.bincount(class_ids, weights, minlength=self.channels)
        return counts.astype(np.int64)
