"""Small data sets in the official formats, under the folder names of the experiments."""

from pathlib import Path
from typing import Any

import cityscapes_tree
import coco_tree
import imagenet_tree
import mapillary_tree

from axialseg.panoptic.coco_classes import COCO

OFFICIAL = {1: 17, 7: 18, 90: 187, 91: 149}  # ids of the tree: cat, dog, sky, road


def write_coco(root: Path) -> None:
    """All 133 classes of COCO are listed; four are in the images."""
    coco_tree.write_tree(root)
    for split in ("train", "val"):
        coco_tree.change_json(root, _make_official, split)


def _make_official(content: dict[str, Any]) -> None:
    content["categories"] = [
        {
            "id": row.official_id,
            "name": row.name,
            "isthing": int(row.is_thing),
            "color": list(row.color),
        }
        for row in COCO.classes
    ]
    for image in content["annotations"]:
        for segment in image["segments_info"]:
            segment["category_id"] = OFFICIAL[segment["category_id"]]


TREES: dict[str, Any] = {
    "cityscapes": cityscapes_tree.write_tree,
    "coco": write_coco,
    "mapillary_vistas": mapillary_tree.write_tree,
    "imagenet": imagenet_tree.write_tree,
}
