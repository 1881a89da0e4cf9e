"""Writing COCO's panoptic format: one JSON table of segments, and one PNG of ids for each image.

Source: the format page of cocodataset.org ("Panoptic Segmentation") and cocodataset/panopticapi.
The PNGs are those of `id_png.py`; `coco_annotations.py` reads the format.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from axialseg.formats.id_png import ID_LIMIT, rgb_from_ids
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments


def write_id_png(path: Path, segments: PanopticSegments, ids: Sequence[int]) -> None:
    """Writes the PNG of one image; each segment gets its id."""
    pixels = rgb_from_ids(np.array([0, *ids]))[segments.id_map]
    Image.fromarray(pixels).save(path, compress_level=3)


def below(file_name: str) -> PurePosixPath:
    """The name of an image as one below any folder: what would lead out of it is left out."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    return PurePosixPath(*(part for part in parts if part.strip("/") not in ("", "..")))


def color_like_ids(class_ids: NDArray[np.int64], categories: Categories) -> list[int]:
    """One id per segment, unique, never 0, and as a colour near that of its class."""
    ids: dict[int, None] = {}
    for class_id in class_ids.tolist():
        red, green, blue = categories.by_class_id[class_id].color
        number = red + 256 * green + 65536 * blue
        while number == 0 or number in ids:
            number = (number + 0x0A0A0A) % ID_LIMIT  # each channel a little brighter
        ids[number] = None
    return list(ids)


def segments_info(
    segments: PanopticSegments, ids: list[int], categories: Categories
) -> list[dict[str, Any]]:
    """The official table of one image: id, category_id, iscrowd, bbox (x, y, w, h), area.

    Args:
        segments: every row has pixels.
        ids: id of each row in the PNG.
        categories: gives the official category ids.
    """
    boxes = ndimage.find_objects(segments.id_map)
    columns = zip(
        ids,
        segments.class_ids.tolist(),
        segments.is_crowd.tolist(),
        boxes,
        segments.areas().tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "category_id": categories.by_class_id[class_id].official_id,
            "iscrowd": int(is_crowd),
            "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
            "area": area,
        }
        for number, class_id, is_crowd, (y, x), area in columns
    ]


def official_categories(categories: Categories) -> list[dict[str, Any]]:
    """The `categories` list of a panoptic JSON file."""
    return [
        {
            "id": category.official_id,
            "name": category.name,
            "supercategory": "thing" if category.is_thing else "stuff",
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in categories.classes
    ]
