import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.coco_panoptic import (
    CocoPanopticWriter,
    color_like_ids,
    official_categories,
    read_annotations,
    read_segments,
)
from axialseg.formats.id_png import rgb_from_ids
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR, segments_from_panoptic_map

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
            read_segments(prediction, i, folder / "pred", (96, 128)),
            read_segments(target, i, folder / "gt", (96, 128)),
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
    with pytest.raises(UserError, match=rf"no COCO panoptic annotation file \('{key}' is missing"):
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
        ("id", 2**40, "is no COCO panoptic annotation file"),
        ("id", None, "is no COCO panoptic annotation file"),
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


# --- the writer ---


def prediction(seed: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 4, (4, 6))
    classes = cells.repeat(8, 0).repeat(8, 1)
    instances = np.where((classes == 1) | (classes == 2), 1 + np.arange(48) // 12, 0)
    return (classes * CLASS_DIVISOR + instances).astype(np.int32)


def test_an_outside_scorer_accepts_the_files(tmp_path: Path) -> None:
    maps = [prediction(seed) for seed in range(3)]
    image_ids: Any = np.arange(100, 103)  # numpy's integers are no JSON by themselves
    with CocoPanopticWriter(tmp_path / "out", CATEGORIES) as writer:
        for i, panoptic_map in enumerate(maps):
            writer.write(panoptic_map, image_ids[i], f"some/where/{i:03d}.jpg")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == [100, 101, 102]
    known = {row["id"] for row in content["categories"]}
    for row, panoptic_map in zip(content["annotations"], maps, strict=True):
        # The checks of the official scorer, and its way from pixels to ids.
        pixels = np.array(Image.open(tmp_path / "out" / "predictions" / row["file_name"]), np.int64)
        ids = pixels[:, :, 0] + 256 * pixels[:, :, 1] + 256 * 256 * pixels[:, :, 2]
        present, areas = np.unique(ids[ids > 0], return_counts=True)
        listed = {segment["id"]: segment for segment in row["segments_info"]}
        assert len(listed) == len(row["segments_info"])
        assert set(listed) == set(present.tolist())
        for number, area in zip(present.tolist(), areas.tolist(), strict=True):
            segment = listed[number]
            ys, xs = np.nonzero(ids == number)
            assert segment["category_id"] in known
            assert segment["area"] == area
            assert segment["iscrowd"] == 0
            assert segment["bbox"] == [
                xs.min(),
                ys.min(),
                xs.max() - xs.min() + 1,
                ys.max() - ys.min() + 1,
            ]
            [value] = np.unique(panoptic_map[ids == number])
            class_id = CATEGORIES.by_official_id[segment["category_id"]].class_id
            assert value // CLASS_DIVISOR == class_id
        assert ((ids == 0) == (panoptic_map // CLASS_DIVISOR == 0)).all()


def test_our_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    with CocoPanopticWriter(tmp_path, CATEGORIES) as writer:
        writer.write(prediction(0), "city_1", "one/a.jpg")
        writer.write(prediction(1), "city_2", "two/a.jpg")
    annotations = read_annotations(tmp_path / "predictions.json")
    assert annotations.categories == CATEGORIES
    assert annotations.image_ids.tolist() == ["city_1", "city_2"]
    assert annotations.png_files.tolist() == ["a.png", "a_2.png"]
    for i in range(2):
        segments = read_segments(annotations, i, tmp_path / "predictions", (32, 48))
        expected = segments_from_panoptic_map(prediction(i), 0)
        assert (segments.id_map == expected.id_map).all()
        assert (segments.class_ids == expected.class_ids).all()


def test_an_image_of_only_void(tmp_path: Path) -> None:
    with CocoPanopticWriter(tmp_path, CATEGORIES) as writer:
        writer.write(np.zeros((3, 4), np.int32), 1, "a.jpg")
    annotations = read_annotations(tmp_path / "predictions.json")
    assert not read_segments(annotations, 0, tmp_path / "predictions", (3, 4)).id_map.any()


def test_a_broken_run_leaves_the_earlier_result(tmp_path: Path) -> None:
    with CocoPanopticWriter(tmp_path, CATEGORIES) as writer:
        writer.write(prediction(0), 1, "a.jpg")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    table = (tmp_path / "predictions.json").read_text()

    def broken_run() -> None:
        with CocoPanopticWriter(tmp_path, CATEGORIES) as writer:
            writer.write(prediction(1), 2, "b.jpg")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        broken_run()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "predictions.json").read_text() == table


def test_a_new_result_replaces_the_earlier_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with CocoPanopticWriter(tmp_path, CATEGORIES) as writer:
            writer.write(prediction(0), 1, f"{name}.jpg")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["predictions", "predictions.json", "predictions/b.png"]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/out can not be written"):
        CocoPanopticWriter(tmp_path / "file" / "out", CATEGORIES)


def test_ids_look_like_the_class_and_never_repeat() -> None:
    class_ids = np.array([1] * 300 + [2, 3], np.int64)
    ids = color_like_ids(class_ids, CATEGORIES)
    assert len(set(ids)) == 302
    assert 0 not in ids
    assert rgb_from_ids(np.array(ids))[[0, 300]].tolist() == [[200, 10, 10], [10, 200, 10]]
    black = contiguous_categories([(1, "night", False, (0, 0, 0))])
    assert 0 not in color_like_ids(np.array([1, 1]), black)
