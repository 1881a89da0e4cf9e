"""The COCO reader: what it returns, and one sentence for every kind of broken data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from axialseg.datasets.coco import CocoPanoptic
from axialseg.errors import UserError
from axialseg.panoptic.categories import contiguous_categories

CATEGORIES = contiguous_categories(
    [(1, "cat", True, (1, 2, 3)), (7, "dog", True, (4, 5, 6)), (90, "sky", False, (7, 8, 9))]
)
TABLE = [
    {"id": 70000, "category_id": 90, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
    {"id": 5, "category_id": 7, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
    {"id": 300, "category_id": 1, "iscrowd": 1, "area": 1, "bbox": [0, 0, 1, 1]},
]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)


def id_colors(ids: np.ndarray) -> Image.Image:
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    return Image.fromarray(colors.astype(np.uint8))


def official_ids() -> np.ndarray:
    ids = np.full((8, 10), 70000)
    ids[2:5, 3:6] = 5
    ids[6:, :4] = 300
    ids[0] = 0
    return ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one image, in COCO's layout."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / "panoptic_val2017").mkdir(parents=True)
    Image.fromarray(IMAGE).save(tmp_path / "val2017" / "000000000042.png")
    id_colors(official_ids()).save(tmp_path / "annotations/panoptic_val2017/000000000042.png")
    write_json(tmp_path, lambda content: None)
    return tmp_path


def write_json(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content: dict[str, Any] = {
        "images": [{"id": 42, "file_name": "000000000042.png", "height": 8, "width": 10}],
        "annotations": [{"image_id": 42, "file_name": "000000000042.png", "segments_info": TABLE}],
        "categories": [
            {"id": c.official_id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
            for c in CATEGORIES.classes
        ],
    }
    content = json.loads(json.dumps(content))
    change(content)
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))


def open_dataset(root: Path, **changes: Any) -> CocoPanoptic:
    arguments = {
        "image_folder": "val2017",
        "annotation_file": "annotations/panoptic_val2017.json",
        "panoptic_folder": "annotations/panoptic_val2017",
        "categories": CATEGORIES,
    } | changes
    return CocoPanoptic(root, **arguments)


def test_sample_is_the_files_content(root: Path) -> None:
    dataset = open_dataset(root)
    assert len(dataset) == 1
    sample = dataset.read(0)
    np.testing.assert_array_equal(sample.image, IMAGE)
    assert sample.image_id == 42
    assert sample.file_name == str(root / "val2017" / "000000000042.png")
    expected = np.select([official_ids() == row["id"] for row in TABLE], [1, 2, 3], 0)
    np.testing.assert_array_equal(sample.segments.id_map, expected)
    assert sample.segments.id_map.dtype == np.int32
    assert sample.segments.class_ids.tolist() == [3, 2, 1]
    assert sample.segments.is_crowd.tolist() == [False, False, True]


def test_shared_samples_can_not_be_written(root: Path) -> None:
    sample = open_dataset(root).read(0)
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0, 0] = 0
    with pytest.raises(ValueError, match="read-only"):
        sample.segments.id_map[0, 0] = 0


def test_categories_come_from_the_file_if_none_are_given(root: Path) -> None:
    assert open_dataset(root, categories=None).categories == CATEGORIES


def test_opening_reads_no_json(root: Path) -> None:
    (root / "annotations" / "panoptic_val2017.json").write_text("{")
    assert open_dataset(root).categories is CATEGORIES


def remove_root(root: Path) -> None:
    shutil.rmtree(root)


def remove_image_folder(root: Path) -> None:
    shutil.rmtree(root / "val2017")


def remove_png_folder(root: Path) -> None:
    shutil.rmtree(root / "annotations" / "panoptic_val2017")


def remove_json(root: Path) -> None:
    (root / "annotations" / "panoptic_val2017.json").unlink()


def truncate_json(root: Path) -> None:
    path = root / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text()[:100])


def remove_image(root: Path) -> None:
    (root / "val2017" / "000000000042.png").unlink()


def truncate_image(root: Path) -> None:
    path = root / "val2017" / "000000000042.png"
    path.write_bytes(path.read_bytes()[:150])


def remove_png(root: Path) -> None:
    (root / "annotations" / "panoptic_val2017" / "000000000042.png").unlink()


def truncate_png(root: Path) -> None:
    path = root / "annotations" / "panoptic_val2017" / "000000000042.png"
    path.write_bytes(path.read_bytes()[:70])


def shrink_png(root: Path) -> None:
    path = root / "annotations" / "panoptic_val2017" / "000000000042.png"
    id_colors(official_ids()[:, :7]).save(path)


def hide_a_segment(root: Path) -> None:
    write_json(root, lambda content: content["annotations"][0]["segments_info"].pop(1))


def change_a_category(root: Path) -> None:
    write_json(
        root,
        lambda content: content["annotations"][0]["segments_info"][0].update(category_id=91),
    )


def grey_png(root: Path) -> None:
    path = root / "annotations" / "panoptic_val2017" / "000000000042.png"
    Image.new("L", (10, 8), 99).save(path)


def write_sixteen_bits(root: Path) -> None:
    path = root / "annotations" / "panoptic_val2017" / "000000000042.png"
    Image.fromarray(official_ids().astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove_root, r"does not exist; set data\.root"),
        (remove_image_folder, r"val2017 does not exist; unpack .* or set data\.root"),
        (remove_png_folder, r"panoptic_val2017 does not exist; unpack .* or set data\.root"),
        (remove_json, r"panoptic_val2017\.json does not exist; unpack .* or set data\.root"),
        (truncate_json, r"panoptic_val2017\.json is not valid JSON .*download it again"),
        (remove_image, r"val2017/000000000042\.png does not exist; unpack"),
        (truncate_image, r"val2017/000000000042\.png cannot be read .*download it again"),
        (remove_png, r"panoptic_val2017/000000000042\.png does not exist; unpack"),
        (truncate_png, r"panoptic_val2017/000000000042\.png cannot be read .*download it again"),
        (shrink_png, r"panoptic_val2017/000000000042\.png is 7 x 8 .*is 10 x 8; both must"),
        (grey_png, r"000000000042\.png is not a panoptic id PNG .*are L, not RGB, .*; give"),
        (write_sixteen_bits, r"000000000042\.png is not a panoptic id PNG .*not RGB, .*; give"),
        (hide_a_segment, r"000000000042\.png has the id 5 at row 2.*does not list.*; take"),
        (change_a_category, r"panoptic_val2017\.json: .*category id 91.*; give"),
    ],
)
def test_broken_data_is_one_sentence_with_file_and_cure(
    root: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(root)
    with pytest.raises(UserError, match=sentence) as caught:
        open_dataset(root).read(0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(root) in message


@pytest.fixture
def listed_root(root: Path) -> Path:
    """The root with a list of images in place of annotations, as for test-dev."""
    (root / "val2017").rename(root / "test2017")
    shutil.rmtree(root / "annotations" / "panoptic_val2017")
    (root / "annotations" / "panoptic_val2017.json").unlink()
    rows = [{"id": 42, "file_name": "000000000042.png", "height": 8, "width": 10}]
    write_list(root, {"info": {}, "images": rows, "licenses": [], "categories": []})
    return root


def write_list(root: Path, content: Any) -> None:
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))


def open_test_images(root: Path, **changes: Any) -> CocoPanoptic:
    arguments = {
        "image_folder": "test2017",
        "annotation_file": "annotations/image_info_test-dev2017.json",
        "panoptic_folder": None,
    } | changes
    return open_dataset(root, **arguments)


def test_test_images_have_no_ground_truth(listed_root: Path) -> None:
    dataset = open_test_images(listed_root)
    sample = dataset.read(0)
    assert (len(dataset), sample.image_id, sample.segments) == (1, 42, None)
    np.testing.assert_array_equal(sample.image, IMAGE)
    assert sample.file_name == str(listed_root / "test2017" / "000000000042.png")
    assert dataset.categories is CATEGORIES


def remove_list(root: Path) -> None:
    (root / "annotations" / "image_info_test-dev2017.json").unlink()


def truncate_list(root: Path) -> None:
    path = root / "annotations" / "image_info_test-dev2017.json"
    path.write_text(path.read_text()[:20])


def list_nothing(root: Path) -> None:
    write_list(root, {"annotations": []})


def remove_test_image(root: Path) -> None:
    (root / "test2017" / "000000000042.png").unlink()


def truncate_test_image(root: Path) -> None:
    path = root / "test2017" / "000000000042.png"
    path.write_bytes(path.read_bytes()[:150])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove_root, r"does not exist; set data\.root"),
        (remove_list, r"image_info_test-dev2017\.json does not exist; unpack .*set data\.root"),
        (truncate_list, r"image_info_test-dev2017\.json is not valid JSON .*download it again"),
        (list_nothing, r"image_info_test-dev2017\.json lists no images \('images'\); give"),
        (remove_test_image, r"test2017/000000000042\.png does not exist; unpack"),
        (truncate_test_image, r"test2017/000000000042\.png cannot be read .*download it again"),
    ],
)
def test_broken_test_sets_are_one_sentence(
    listed_root: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(listed_root)
    with pytest.raises(UserError, match=sentence) as caught:
        open_test_images(listed_root).read(0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(listed_root) in message


def test_test_images_need_classes(listed_root: Path) -> None:
    with pytest.raises(UserError, match=r"lists no panoptic classes; give data\.val_dataset"):
        open_test_images(listed_root, categories=None)


def test_class_presence(root: Path) -> None:
    assert open_dataset(root).class_presence().tolist() == [[False, True, True, True]]
