"""A small, faultless data set in COCO panoptic format, to be damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = [(1, "cat", 1), (7, "dog", 1), (90, "sky", 0), (91, "road", 0)]
SIZE = (24, 40)
COUNT = 5


def write_tree(root: Path, splits: tuple[str, ...] = ("train", "val")) -> None:
    """Images, PNGs and JSON files; each image has two dogs, a crowd of cats, sky, road and void."""
    rng = np.random.default_rng(0)
    categories = [
        {"id": n, "name": name, "isthing": thing, "color": [n, 2 * n, 0]}
        for n, name, thing in CLASSES
    ]
    for split in splits:
        (root / f"{split}2017").mkdir(parents=True)
        (root / "annotations" / f"panoptic_{split}2017").mkdir(parents=True)
        images, annotations = [], []
        for n in range(COUNT):
            name = f"{n:012d}"
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(image).save(root / f"{split}2017" / f"{name}.jpg")
            ids = np.full(SIZE, 70000)
            ids[12:] = 300
            ids[4:10, 5:12], ids[8:20, 20:30], ids[2:6, 30:38] = 5, 9, 1234567
            ids[0, :3] = 0
            write_ids(root / f"annotations/panoptic_{split}2017/{name}.png", ids)
            table = {70000: (90, 0), 300: (91, 0), 5: (7, 0), 9: (7, 0), 1234567: (1, 1)}
            rows = [segment(ids, number, *table[number]) for number in table]
            images.append(
                {"id": n, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
            )
            annotations.append({"image_id": n, "file_name": f"{name}.png", "segments_info": rows})
        content = {"images": images, "annotations": annotations, "categories": categories}
        json_file(root, split).write_text(json.dumps(content))


def segment(ids: np.ndarray, number: int, category: int, is_crowd: int) -> dict[str, Any]:
    ys, xs = np.nonzero(ids == number)
    x, y = int(xs.min()), int(ys.min())
    box = [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1]
    row = {"id": number, "category_id": category, "iscrowd": is_crowd}
    return row | {"area": len(ys), "bbox": box}


def write_ids(path: Path, ids: np.ndarray) -> None:
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    Image.fromarray(colors.astype(np.uint8)).save(path)


def json_file(root: Path, split: str = "train") -> Path:
    return root / "annotations" / f"panoptic_{split}2017.json"


def change_json(
    root: Path, change: Callable[[dict[str, Any]], object], split: str = "train"
) -> None:
    content = json.loads(json_file(root, split).read_text())
    change(content)
    json_file(root, split).write_text(json.dumps(content))
