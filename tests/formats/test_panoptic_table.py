"""The raw table of a panoptic JSON file: every column, and what is not asked for is not kept."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axialseg.errors import UserError
from axialseg.formats.panoptic_table import PanopticTable, parse_panoptic_table, read_panoptic_table

SEGMENTS = [
    {"id": 900, "category_id": 92, "iscrowd": 0, "area": 12, "bbox": [1, 2, 3, 4]},
    {"id": 7.0, "category_id": 3.0, "iscrowd": 1, "area": 2.5, "bbox": [0.5, 0, 1, 1]},
    {"id": 5, "category_id": 4, "area": "?", "bbox": [1, 2, 3]},
]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "b.jpg", "height": 480, "width": 640, "license": 3},
        {"id": 9, "file_name": "a.jpg", "coco_url": "http://x"},
    ],
    "annotations": [
        {"image_id": 9, "file_name": "a.png", "segments_info": SEGMENTS[:2]},
        {"image_id": 8, "file_name": "c.png", "segments_info": []},
        {"segments_info": SEGMENTS[2:], "file_name": "b.png", "image_id": 1},
    ],
    "categories": [{"id": 3, "name": "cat", "isthing": 1, "color": [1, 2, 3]}],
}


def read(folder: Path, content: Any) -> PanopticTable:
    (folder / "panoptic.json").write_text(json.dumps(content))
    return read_panoptic_table(folder / "panoptic.json")


def test_every_column(tmp_path: Path) -> None:
    table = read(tmp_path, CONTENT)
    assert table.path == tmp_path / "panoptic.json"
    assert table.categories == CONTENT["categories"]
    assert table.listed_ids.tolist() == [1, 9]
    assert table.listed_files.tolist() == ["b.jpg", "a.jpg"]
    assert table.listed_sizes.tolist() == [[480, 640], [0, 0]]
    assert table.annotated.tolist() == [1, -1, 0]
    assert table.annotated_ids.tolist() == [9, 8, 1]
    assert table.png_files.tolist() == ["a.png", "c.png", "b.png"]
    assert table.offsets.tolist() == [0, 2, 2, 3]
    assert table.segment_ids.tolist() == [900, 7, 5]
    assert table.category_ids.tolist() == [92, 3, 4]
    assert table.is_crowd.tolist() == [False, True, False]
    np.testing.assert_array_equal(table.areas, [12, 2.5, np.nan])
    np.testing.assert_array_equal(table.boxes, [[1, 2, 3, 4], [0.5, 0, 1, 1], [np.nan] * 4])
    dtypes = [str(values.dtype) for values in table[2:]]
    assert dtypes == [
        *("int64", "<U5", "int32", "int32", "int64", "<U5", "int64"),
        *("int32", "int64", "bool", "float64", "float32"),
    ]


def test_content_at_hand_gives_the_same(tmp_path: Path) -> None:
    one, other = read(tmp_path, CONTENT), parse_panoptic_table(tmp_path / "panoptic.json", CONTENT)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_empty_lists(tmp_path: Path) -> None:
    table = read(tmp_path, {"images": [], "annotations": []})
    assert table.categories is None
    assert table.offsets.tolist() == [0]
    assert table.boxes.shape == (0, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = json.loads(json.dumps(CONTENT).replace("a.jpg", "ä.jpg"))
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=False), encoding)
    assert read_panoptic_table(tmp_path / "a.json").listed_files.tolist() == ["b.jpg", "ä.jpg"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["annotations"][0].update(segments_info=[0, 1]), "segments_info holds no obj"),
        (lambda c: c["annotations"][0].update(segments_info=None), "not iterable"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), "'id' is missing"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=1.5), "float"),
        (lambda c: c["annotations"][0].pop("file_name"), "'file_name' is missing"),
        (lambda c: c["annotations"].append({"id": 1, "category_id": 3}), "'segments_info' is mis"),
        (lambda c: c["images"][0].pop("file_name"), "'file_name' is missing"),
        (lambda c: c["images"][0].update(id=[]), "unhashable"),
        (lambda c: c.update(categories=["cat"]), "categories are no objects"),
    ],
)
def test_refusals(tmp_path: Path, change: Any, reason: str) -> None:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    with pytest.raises(UserError, match=f"no COCO panoptic annotation file .*{reason}.*; give a"):
        read(tmp_path, content)


def test_segments_are_never_python_objects_all_at_once(tmp_path: Path) -> None:
    count = 20_000
    segments = [SEGMENTS[0] | {"id": n} for n in range(1, count + 1)]
    images = [segments[start : start + 100] for start in range(0, count, 100)]
    content = CONTENT | {
        "annotations": [
            {"image_id": 1, "file_name": "b.png", "segments_info": rows} for rows in images
        ]
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    del segments, images, content
    tracemalloc.start()
    table = read_panoptic_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table.segment_ids) == count
    # Twice the text while it is decoded, or the text and small numbers; as objects, 600 bytes each.
    assert peak < 2.2 * path.stat().st_size
    assert peak / count < 250
