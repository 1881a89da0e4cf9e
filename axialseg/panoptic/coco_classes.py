"""The 133 classes of COCO panoptic: 80 things, 53 stuff.

Source: `panoptic_coco_categories.json` of cocodataset/panopticapi. Class ids are the 1-based
positions in that list, 0 is void, as the published deeplab2 checkpoints have it.
"""

import csv
from pathlib import Path

from axialseg.panoptic.categories import Categories, contiguous_categories


def _read() -> Categories:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return contiguous_categories(
            [
                (
                    int(row["official_id"]),
                    row["name"],
                    row["kind"] == "thing",
                    (int(row["red"]), int(row["green"]), int(row["blue"])),
                )
                for row in csv.DictReader(file)
            ]
        )


COCO = _read()
