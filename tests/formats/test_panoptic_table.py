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
        (
            lambda c: c["annotations"][0].update(segments_info=[0, 1]),
            "segments_info of a.png is not a list of obj",
        ),
        (lambda c: c["annotations"][0].update(segments_info=None), "is not a list of objects"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), "'id' is missing"),
        (lambda c: c["annotations"][0].pop("file_name"), "'file_name' is missing"),
        (
            lambda c: c["annotations"].append({"image_id": 1, "file_name": "d"}),
            "'segments_info' is",
        ),
        (lambda c: c["images"][0].pop("file_name"), "'file_name' is missing"),
        (lambda c: c.update(images={"id": 1}), "images is not a list"),
        (lambda c: c.update(categories=["cat"]), "categories are no objects"),
    ],
)
def test_refusals(tmp_path: Path, change: Any, reason: str) -> None:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    with pytest.raises(
        UserError, match=f"not a COCO panoptic annotation file .*{reason}.*; give a"
    ):
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


@pytest.mark.parametrize(
    ("part", "field", "value", "sentence"),
    [
        ("segment", "id", 1.5, "segment 1 of a.png has the id 1.5; give a whole number."),
        ("segment", "id", "x1", "segment 1 of a.png has the id 'x1'; give a whole number."),
        ("segment", "id", None, "segment 1 of a.png has the id null; give a whole number."),
        ("segment", "id", 2**70, f"a.png has the id {2**70}; give a number below {2**31}."),
        ("segment", "category_id", [3], r"a.png has the category_id \[3\]; give a whole number."),
        ("segment", "category_id", float("nan"), "a.png has the category_id NaN; give a whole"),
        ("segment", "iscrowd", "no", "segment 1 of a.png has the iscrowd 'no'; give 0 or 1."),
        ("segment", "iscrowd", 2, "segment 1 of a.png has the iscrowd 2; give 0 or 1."),
        ("segment", "iscrowd", None, "segment 1 of a.png has the iscrowd null; give 0 or 1."),
        ("image", "id", 2**70, f"image 1 has the id {2**70}; give a number below {2**63}."),
        ("image", "id", [], r"image 1 has the id \[\]; give a whole number."),
        ("image", "id", None, "image 1 has the id null; give a whole number."),
        ("image", "file_name", 7, "image 1 has the file_name 7; give the name of a file."),
        ("image", "file_name", "", "image 1 has the file_name ''; give the name of a file."),
        ("image", "file_name", "..", "image 1 has the file_name '..'; give the name of a file."),
        (
            "image",
            "file_name",
            "/a/b.jpg",
            "the file_name '/a/b.jpg'; give a name below the folder",
        ),
        ("image", "file_name", "C:\\b.jpg", "give a name below the folder, not an absolute one"),
        ("image", "file_name", "a\ud800.jpg", r"'a\\ud800.jpg'; give a name of real characters"),
        ("image", "file_name", "a\0.jpg", r"'a\\x00.jpg'; give a name of real characters"),
        ("image", "file_name", 5000 * "n", r"'nn+\.\.\.; give a name that a file system takes"),
        ("annotation", "image_id", 2.5, "annotation 1 has the image_id 2.5; give a whole number"),
        ("annotation", "file_name", "/a.png", "annotation 1 has the file_name '/a.png'; give"),
    ],
)
def test_wrong_values_are_refused_with_file_image_and_field(
    tmp_path: Path, part: str, field: str, value: Any, sentence: str
) -> None:
    content = json.loads(json.dumps(CONTENT))
    annotation = content["annotations"][0]
    rows = {
        "segment": annotation["segments_info"][0],
        "image": content["images"][0],
        "annotation": annotation,
    }
    rows[part][field] = value
    with pytest.raises(UserError, match=f"panoptic.json: .*{sentence}"):
        read(tmp_path, content)


def test_texts_of_numbers_are_read_as_numbers_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(json.dumps(CONTENT))
    for row in content["annotations"][0]["segments_info"]:
        row |= {"id": str(int(row["id"])), "iscrowd": str(row["iscrowd"])}
        row["category_id"] = str(int(row["category_id"]))
    content["annotations"][0]["image_id"] = "9"
    table, plain = read(tmp_path, content), read(tmp_path, CONTENT)
    for one, other in zip(table, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4, said
    assert 'segment 1 of a.png has the iscrowd "0" as text; it is read as a number' in said[2]


def test_ids_of_images_may_be_texts(tmp_path: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    for row, name in zip(content["images"], ("01", "aachen"), strict=True):
        row["id"] = name
    for row, name in zip(content["annotations"], ("aachen", "1", "01"), strict=True):
        row["image_id"] = name
    table = read(tmp_path, content)
    assert table.annotated.tolist() == [1, -1, 0]
    assert table.annotated_ids.tolist() == ["aachen", "1", "01"]
