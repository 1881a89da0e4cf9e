import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.coco_annotations import (
    annotations_of,
    parse_annotations,
    read_annotations,
    read_image_list,
    read_segments,
    without_images,
)
from axialseg.formats.coco_panoptic import official_categories
from axialseg.formats.id_png import rgb_from_ids
from axialseg.formats.panoptic_table import parse_panoptic_table, read_panoptic_table
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.coco_classes import COCO

GOLDENS = Path(__file__).parents[1] / "goldens" / "panopticapi"
# Official ids out of the order of the class ids' names, with gaps.
CATEGORIES = contiguous_categories(
    [
        (3, "cat", True, (200, 10, 10)),
        (8, "dog", True, (10, 200, 10)),
        (92, "grass", False, (10, 10, 10)),
    ]
)
IDS = np.array([[70000, 70000, 5, 5], [0, 70000, 5, 900]], np.int32)


def write_folder(root: Path) -> dict[str, Any]:
    """One image 4 x 2 with three segments in no order of ids, and a fourth without pixels."""
    (root / "png").mkdir()
    Image.fromarray(rgb_from_ids(IDS)).save(root / "png" / "a.png")
    content = {
        "images": [{"id": 17, "file_name": "a.jpg", "height": 2, "width": 4}],
        "annotations": [
            {
                "image_id": 17,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 900, "category_id": 92, "iscrowd": 0, "area": 1},
                    {"id": 70000, "category_id": 8, "iscrowd": 1, "area": 99},
                    {"id": 4, "category_id": 3, "iscrowd": 0, "area": 7},
                    {"id": 5, "category_id": 8, "iscrowd": 0, "area": 3},
                ],
            }
        ],
        "categories": official_categories(CATEGORIES),
    }
    save(root, content)
    return content


def save(root: Path, content: Any) -> None:
    (root / "panoptic.json").write_text(json.dumps(content))


def test_reads_a_small_file_in_its_order(tmp_path: Path) -> None:
    write_folder(tmp_path)
    annotations = read_annotations(tmp_path / "panoptic.json")
    assert annotations.categories == CATEGORIES
    assert annotations.image_ids.tolist() == [17]
    assert annotations.image_files.tolist() == ["a.jpg"]
    assert annotations.offsets.tolist() == [0, 4]
    segments = read_segments(annotations, 0, tmp_path / "png", (2, 4))
    assert segments.id_map.tolist() == [[2, 2, 4, 4], [0, 2, 4, 1]]
    assert segments.id_map.dtype == np.int32
    assert segments.class_ids.tolist() == [3, 2, 1, 2]
    assert segments.is_crowd.tolist() == [False, True, False, False]
    assert segments.areas().tolist() == [1, 3, 0, 3]


def test_images_in_annotation_order_and_text_ids(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    content["images"] = [
        {"id": "no_annotation", "file_name": "c.png"},
        {"id": "city_2", "file_name": "city/b.png"},
        {"id": "city_1", "file_name": "city/a.png"},
    ]
    empty = {"image_id": "city_2", "file_name": "b_ids.png", "segments_info": []}
    content["annotations"] = [empty, content["annotations"][0] | {"image_id": "city_1"}]
    save(tmp_path, content)
    annotations = read_annotations(tmp_path / "panoptic.json", CATEGORIES)
    assert annotations.image_ids.tolist() == ["city_2", "city_1"]
    assert annotations.image_files.tolist() == ["city/b.png", "city/a.png"]
    assert annotations.png_files.tolist() == ["b_ids.png", "a.png"]
    assert annotations.offsets.tolist() == [0, 0, 4]
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "png" / "b_ids.png")
    segments = read_segments(annotations, 0, tmp_path / "png", (3, 3))
    assert not segments.id_map.any()
    assert len(segments.class_ids) == 0


@pytest.mark.parametrize("case", ["gt_void", "many_crowds", "repeated_stuff"])
def test_official_files_score_as_the_official_scorer_says(tmp_path: Path, case: str) -> None:
    folder = GOLDENS / case
    target = read_annotations(folder / "gt.json")
    # The goldens' prediction files leave out the images, as the official scorer allows.
    content = json.loads((folder / "pred.json").read_text())
    content["images"] = json.loads((folder / "gt.json").read_text())["images"]
    save(tmp_path, content)
    prediction = read_annotations(tmp_path / "panoptic.json", target.categories)
    metric = PanopticQuality(target.categories)
    for i in range(len(target.image_ids)):
        metric.update(
            segment_overlap(
                read_segments(prediction, i, folder / "pred", (96, 128)),
                read_segments(target, i, folder / "gt", (96, 128)),
            )
        )
    expected = json.loads((GOLDENS / "expected.json").read_text())[case]["All"]
    assert metric.compute().all._asdict() == pytest.approx(expected, abs=1e-12)


# --- what a user may get wrong ---


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.json does not exist; point data\.root"):
        read_annotations(tmp_path / "no.json")


def test_truncated_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"a\.json is not valid JSON .*download it again"):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_top_level_key(tmp_path: Path, key: str) -> None:
    content = write_folder(tmp_path)
    del content[key]
    save(tmp_path, content)
    with pytest.raises(
        UserError, match=rf"not a COCO panoptic annotation file \('{key}' is missing"
    ):
        read_annotations(tmp_path / "panoptic.json")


def test_instance_annotations_are_recognised(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    content["annotations"] = [{"id": 1, "image_id": 17, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    save(tmp_path, content)
    with pytest.raises(UserError, match=r"'segments_info' is missing.*give a panoptic_"):
        read_annotations(tmp_path / "panoptic.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("category_id", 77, "segment 2 of a.png has the category id 77, which is none"),
        ("id", 0, "segment 2 of a.png has the id 0; give it one from 1 to 16777215"),
        ("id", 2**24, "segment 2 of a.png has the id 16777216"),
        ("id", 900, "segment 2 of a.png has the id 900 of an earlier segment"),
        ("id", 2**40, "segment 2 of a.png has the id 1099511627776; give a number below"),
        ("id", None, "segment 2 of a.png has the id null; give a whole number"),
    ],
)
def test_wrong_segment_rows(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = write_folder(tmp_path)
    content["annotations"][0]["segments_info"][1][key] = value
    save(tmp_path, content)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / "panoptic.json")


def test_category_that_the_given_classes_lack(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    content["annotations"][0]["segments_info"][0]["category_id"] = 12
    save(tmp_path, content)
    with pytest.raises(UserError, match=r"segment 1 of a\.png has the category id 12"):
        read_annotations(tmp_path / "panoptic.json", COCO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["images"].clear(), "image 17 is annotated but not listed"),
        (lambda content: content["annotations"].clear(), "it annotates no image"),
        (lambda content: content["categories"].clear(), "it lists no category"),
        (
            lambda content: content["categories"].append(content["categories"][0]),
            "a category id is listed twice",
        ),
    ],
)
def test_wrong_lists(tmp_path: Path, change: Any, message: str) -> None:
    content = write_folder(tmp_path)
    change(content)
    save(tmp_path, content)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / "panoptic.json")


def test_png_of_another_size(tmp_path: Path) -> None:
    write_folder(tmp_path)
    annotations = read_annotations(tmp_path / "panoptic.json")
    with pytest.raises(UserError, match=r"a\.png is 4 x 2 pixels but its image a\.jpg is 5 x 2"):
        read_segments(annotations, 0, tmp_path / "png", (2, 5))


def test_id_that_the_json_does_not_list(tmp_path: Path) -> None:
    write_folder(tmp_path)
    annotations = read_annotations(tmp_path / "panoptic.json")
    for strange in (1, 901, 16_000_000):
        ids = IDS.copy()
        ids[1, 2] = strange
        Image.fromarray(rgb_from_ids(ids)).save(tmp_path / "png" / "a.png")
        with pytest.raises(UserError, match=rf"a\.png has the id {strange} at row 1, column 2"):
            read_segments(annotations, 0, tmp_path / "png", (2, 4))


def test_missing_png(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "png" / "a.png").unlink()
    annotations = read_annotations(tmp_path / "panoptic.json")
    with pytest.raises(UserError, match=r"a\.png does not exist"):
        read_segments(annotations, 0, tmp_path / "png", (2, 4))


def test_segments_of_void_categories_are_void(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    classes = contiguous_categories([(3, "cat", True, (0, 0, 0)), (92, "grass", False, (0, 0, 0))])
    table = parse_panoptic_table(tmp_path / "panoptic.json", content)
    annotations = annotations_of(table, classes, {8})
    segments = read_segments(annotations, 0, tmp_path / "png", (2, 4))
    assert segments.id_map.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert segments.class_ids.tolist() == [2, 1]
    assert segments.is_crowd.tolist() == [False, False]
    with pytest.raises(UserError, match=r"segment 2 of a\.png has the category id 8"):
        parse_annotations(tmp_path / "panoptic.json", content, classes)


def test_image_list_of_a_test_set(tmp_path: Path) -> None:
    rows = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 2, "width": 4} for n in (9, 1)]
    save(tmp_path, {"info": {}, "images": rows, "licenses": [], "categories": [{"id": 1}]})
    ids, files = read_image_list(tmp_path / "panoptic.json")
    assert ids.tolist() == [9, 1]
    assert files.tolist() == ["000000000009.jpg", "000000000001.jpg"]


@pytest.mark.parametrize("content", [{}, {"images": [{"id": 1}]}, {"images": []}, [1], 1])
def test_other_json_is_no_image_list(tmp_path: Path, content: Any) -> None:
    save(tmp_path, content)
    with pytest.raises(UserError, match=r"panoptic\.json lists no images.*; give"):
        read_image_list(tmp_path / "panoptic.json")


def test_categories_without_colours_get_some(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    for row in content["categories"][1:]:
        del row["color"]
    save(tmp_path, content)
    cat, dog, grass = read_annotations(tmp_path / "panoptic.json").categories.classes
    assert cat.color == (200, 10, 10)
    assert len({cat.color, dog.color, grass.color}) == 3
    assert all(0 <= channel <= 255 for channel in (*dog.color, *grass.color))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("color", [1, 2], "three whole numbers from 0 to 255"),
        ("color", [1, 2, 3, 4], "three whole numbers from 0 to 255"),
        ("color", "red", "three whole numbers from 0 to 255"),
        ("color", 7, "three whole numbers from 0 to 255"),
        ("color", [1, 2, 256], "three whole numbers from 0 to 255"),
        ("color", [1, 2, 2**70], "a number below"),
        ("color", [1, 2, 0.5], "a whole number"),
        ("id", None, "a whole number"),
        ("id", 2**70, "a number below"),
        ("id", 1.5, "a whole number"),
        ("isthing", "yes", "0 or 1"),
        ("isthing", 2, "0 or 1"),
        ("isthing", None, "0 or 1"),
        ("name", None, "a name"),
        ("name", float("nan"), "a name"),
        ("name", "", "a name"),
        ("name", 7, "a name"),
        ("name", "c\ud800at", "a name of real characters"),
    ],
)
def test_wrong_values_of_a_category_are_refused(
    tmp_path: Path, field: str, value: Any, wanted: str
) -> None:
    content = write_folder(tmp_path)
    content["categories"][0][field] = value
    save(tmp_path, content)
    place = r"category 1 \(cat\)" if field != "name" else "category 1"
    sentence = rf"panoptic\.json: {place} has the {field} .*; give {wanted}"
    with pytest.raises(UserError, match=sentence) as caught:
        read_annotations(tmp_path / "panoptic.json")
    str(caught.value).encode()


def test_flags_of_categories_may_be_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = write_folder(tmp_path)
    for row in content["categories"]:
        row["isthing"] = str(row["isthing"])
    save(tmp_path, content)
    assert read_annotations(tmp_path / "panoptic.json").categories == CATEGORIES
    assert [record.getMessage() for record in caplog.records] == [
        f'{tmp_path}/panoptic.json: category 1 (cat) has the isthing "1" as text; it is read as a '
        "number, here and wherever else the file has it so"
    ]


def test_a_crowd_of_text_zero_is_none(tmp_path: Path) -> None:
    content = write_folder(tmp_path)
    for row in content["annotations"][0]["segments_info"]:
        row["iscrowd"] = str(row["iscrowd"])
    save(tmp_path, content)
    annotations = read_annotations(tmp_path / "panoptic.json")
    assert annotations.is_crowd.tolist() == [False, True, False, False]


def write_several(root: Path) -> dict[str, Any]:
    """Six images alike, five of them wrong, each in another way."""
    content = write_folder(root)
    first = content["annotations"][0]
    content["images"] = [{"id": n, "file_name": f"{n}.jpg"} for n in range(6)]
    content["annotations"] = [
        json.loads(json.dumps(first | {"image_id": n, "file_name": f"{n}.png"})) for n in range(6)
    ]
    rows = [annotation["segments_info"] for annotation in content["annotations"]]
    rows[1][3]["id"] = 4  # an earlier segment's
    rows[2][0]["category_id"] = 77
    rows[3][0]["id"] = 0
    content["annotations"][4]["image_id"] = 99
    content["annotations"][5]["image_id"] = 99
    save(root, content)
    return content


def test_all_wrong_images_are_named(tmp_path: Path) -> None:
    write_several(tmp_path)
    with pytest.raises(UserError) as caught:
        read_annotations(tmp_path / "panoptic.json")
    assert str(caught.value) == (
        f"{tmp_path}/panoptic.json: segment 4 of 1.png has the id 4 of an earlier segment; give "
        "each segment of an image an id of its own. 5 images are wrong (1.png, 2.png, 3.png, "
        "4.png, 5.png). data.skip_invalid=true leaves such images out."
    )


def test_wrong_images_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_several(tmp_path)
    table = read_panoptic_table(tmp_path / "panoptic.json")
    annotations = annotations_of(table, skip_invalid=True)
    assert annotations.image_ids.tolist() == [0]
    assert annotations.png_files.tolist() == ["0.png"]
    assert annotations.segment_ids.tolist() == [900, 70000, 4, 5]
    assert "5 of 6 images are left out (1.png, 2.png" in caplog.records[0].getMessage()
    with pytest.raises(UserError, match=r"1 of 1 images are left out .*; nothing is left"):
        without_images(annotations_of(table, skip_invalid=True), [0], "wrong")


@pytest.mark.parametrize("part", ["images", "annotations", "both"])
def test_two_images_of_one_id_are_refused(tmp_path: Path, part: str) -> None:
    content = write_folder(tmp_path)
    image, annotation = content["images"][0], content["annotations"][0]
    if part in ("images", "both"):
        content["images"].append(image | {"file_name": "b.jpg"})
    if part in ("annotations", "both"):
        content["annotations"].append(annotation | {"file_name": "b.png"})
    save(tmp_path, content)
    with pytest.raises(UserError, match="the image id 17 is there more than once; give each"):
        read_annotations(tmp_path / "panoptic.json")


def test_a_list_with_two_images_of_one_id_is_refused(tmp_path: Path) -> None:
    rows = [{"id": 5, "file_name": name} for name in ("a.jpg", "b.jpg")]
    save(tmp_path, {"images": rows})
    with pytest.raises(UserError, match="lists two images of the id 5"):
        read_image_list(tmp_path / "panoptic.json")
