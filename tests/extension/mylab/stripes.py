"""A data set: a stick (thing) on a wall (stuff). See `axialseg.datasets.sample.PanopticDataset`."""

from pathlib import Path

import numpy as np

from axialseg.datasets.sample import PanopticSample
from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.panoptic_map import PanopticSegments

CATEGORIES = Categories(
    (Category(1, "stick", True, 1, (200, 30, 30)), Category(2, "wall", False, 2, (30, 30, 200))),
    ignore_class=0,
)


class Stripes:
    categories = CATEGORIES

    def __init__(self, root: str | Path, split: str) -> None:
        self.root = root  # a real data set reads its files below this folder
        self.images = {"train": 8, "val": 4}[split]

    def __len__(self) -> int:
        return self.images

    def read(self, index: int) -> PanopticSample:
        id_map = np.ones((64, 64), np.int32)  # 1 is the first row of the table below, the wall
        id_map[:, 10 + index : 20 + index] = 2
        image = np.array([(0, 0, 0), (30, 30, 200), (200, 30, 30)], np.uint8)[id_map]
        segments = PanopticSegments(id_map, np.array([2, 1]), np.array([False, False]))
        name = f"{index}.png"
        return PanopticSample(image, segments, index, f"stripes/{name}", name)
