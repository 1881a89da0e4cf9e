"""A small Mapillary Vistas root in the official layout and file types."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# (name, readable name, instances, evaluate, colour), in the order of the config.
LABELS: dict[str, list[tuple[str, str, bool, bool, tuple[int, int, int]]]] = {
    "v1.2": [
        ("animal--bird", "Bird", True, True, (165, 42, 42)),
        ("construction--flat--road", "Road", False, True, (128, 64, 128)),
        ("human--person", "Person", True, True, (220, 20, 60)),
        ("object--vehicle--car", "Car", True, True, (0, 0, 142)),
        ("void--unlabeled", "Unlabeled", False, False, (0, 0, 0)),
    ],
    "v2.0": [
        ("animal--bird", "Bird", True, True, (165, 42, 42)),
        ("construction--flat--road", "Road", False, True, (128, 64, 128)),
        ("human--person--individual", "Person", True, True, (220, 20, 60)),
        ("void--ground", "Ground", False, False, (81, 0, 81)),
        ("object--vehicle--car", "Car", True, True, (0, 0, 142)),
        ("object--vehicle--vehicle-group", "Vehicle Group", False, True, (0, 0, 143)),
        ("void--unlabeled", "Unlabeled", False, False, (0, 0, 0)),
    ],
}
FILES = {
    "training": [("0035fkbjWljhaftpVM37-g", (24, 40)), ("-1ZjN5D4xDaVvm5hNrR5wA", (36, 30))],
    "validation": [("_1Gn_xkw7sa_i9GU4mkxxQ", (20, 33))],
    "testing": [("a-0b", (10, 12)), ("__5A", (12, 10))],
}
PANOPTIC_FILES = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}
CROWD = "human--person"


def write_tree(root: Path) -> None:
    """Both versions, as one download holds them."""
    rng = np.random.default_rng(0)
    for split, files in FILES.items():
        (root / split / "images").mkdir(parents=True)
        for key, size in files:
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
            image.save(root / split / "images" / f"{key}.jpg")
    for version, labels in LABELS.items():
        rows = [
            {"color": c, "instances": i, "readable": r, "name": n, "evaluate": e}
            for n, r, i, e, c in labels
        ]
        config = {"labels": rows, "version": 1.1, "mapping": "public"}
        (root / f"config_{version}.json").write_text(json.dumps(config))
        for split in ("training", "validation"):
            write_truth(root / split / version, version, FILES[split])


def write_truth(folder: Path, version: str, files: list[tuple[str, tuple[int, int]]]) -> None:
    """8-bit palette labels, 16-bit instances, RGB panoptic PNGs and their table."""
    for name in ("instances", "labels", "panoptic"):
        (folder / name).mkdir(parents=True)
    rows = []
    for key, size in files:
        ids = values(size, len(LABELS[version]))
        labels = Image.fromarray((ids // 256).astype(np.uint8)).convert("P")
        labels.putpalette([n for *_, color in LABELS[version] for n in color])
        labels.save(folder / "labels" / f"{key}.png")
        Image.fromarray(ids.astype(np.uint16)).save(folder / "instances" / f"{key}.png")
        panoptic_ids, segments = table(ids, version)
        colors = np.stack([panoptic_ids >> shift & 255 for shift in (0, 8, 16)], -1)
        Image.fromarray(colors.astype(np.uint8)).save(folder / "panoptic" / f"{key}.png")
        rows.append({"image_id": key, "file_name": f"{key}.png", "segments_info": segments})
    content = {"images": images(files), "annotations": rows, "categories": categories(version)}
    (folder / "panoptic" / PANOPTIC_FILES[version]).write_text(json.dumps(content))


def values(size: tuple[int, int], count: int) -> np.ndarray:
    """Values of `instances`: label * 256 + instance."""
    rng = np.random.default_rng(size[0])
    cells = rng.integers(0, count, (4, 5)) * 256 + rng.integers(0, 3, (4, 5))
    cells[0, 0] = (count - 1) * 256  # Unlabeled
    return cells.repeat(9, 0).repeat(8, 1)[: size[0], : size[1]]


def table(ids: np.ndarray, version: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Panoptic ids and their segments; Unlabeled is 0 and has none."""
    panoptic_ids, segments = np.zeros(ids.shape, np.int64), []
    for number, value in enumerate(np.unique(ids)[::-1].tolist(), start=1):
        name, _, has_instances, *_ = LABELS[version][value // 256]
        if name == "void--unlabeled":
            continue
        mask = ids == value
        panoptic_ids[mask] = 70_000 * number
        is_crowd = has_instances and name.startswith(CROWD) and value % 256 == 0
        segments.append(
            {
                "id": 70_000 * number,
                "category_id": value // 256 + 1,
                "area": int(mask.sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": int(is_crowd),
            }
        )
    return panoptic_ids, segments


def images(files: list[tuple[str, tuple[int, int]]]) -> list[dict[str, Any]]:
    """The `images` list of a panoptic JSON file."""
    return [
        {"id": key, "file_name": f"{key}.jpg", "height": height, "width": width}
        for key, (height, width) in files
    ]


def categories(version: str) -> list[dict[str, Any]]:
    """The `categories` list: long names are `supercategory` in 1.2 and `name` in 2.0."""
    rows = []
    for number, (name, readable, has_instances, _, color) in enumerate(LABELS[version], start=1):
        if name != "void--unlabeled":
            names = (readable, name) if version == "v1.2" else (name, name.split("--")[0])
            rows.append(
                {
                    "id": number,
                    "name": names[0],
                    "supercategory": names[1],
                    "isthing": int(has_instances),
                    "color": color,
                }
            )
    return rows
