"""The generated data set: layout, content, and when it is made anew."""

import json
import multiprocessing
import zlib
from pathlib import Path

import numpy as np
import pytest

from axialseg.datasets.generated import shapes
from axialseg.datasets.generated.shape_scenes import CATEGORIES, GENERATOR_VERSION, paint_scene
from axialseg.datasets.generated.shapes import generate_shapes, shapes_panoptic
from axialseg.errors import UserError

SMALL = {"train_images": 6, "val_images": 2}


def content_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, ...]]:
    return [paint_scene(np.random.default_rng([0, 0, i])) for i in range(120)]


def test_scenes_hold_what_real_data_holds(scenes: list) -> None:
    assert len(CATEGORIES.thing_ids) >= 5
    assert len(CATEGORIES.stuff_ids) >= 3
    areas, counts = [], []
    for image, segments in scenes:
        assert image.shape[:2] == segments.id_map.shape
        assert segments.areas().min() > 0
        is_object = CATEGORIES.is_thing_table[segments.class_ids] & ~segments.is_crowd
        areas += segments.areas()[is_object].tolist()
        counts.append(is_object.sum())
        stuff = segments.class_ids[~CATEGORIES.is_thing_table[segments.class_ids]]
        assert len(set(stuff.tolist())) == len(stuff)
    classes = np.concatenate([segments.class_ids for _, segments in scenes])
    assert set(classes.tolist()) == set(CATEGORIES.class_ids)
    crowd_rate = np.mean([segments.is_crowd.any() for _, segments in scenes])
    void_rate = np.mean([(segments.id_map == 0).any() for _, segments in scenes])
    assert 0.05 < crowd_rate < 0.3
    assert 0.2 < void_rate < 0.8
    assert min(areas) < 40
    assert max(areas) > 2000
    assert 3.5 < np.mean(counts) < 6.5
    assert len({image.shape for image, _ in scenes}) == 5


def test_colour_alone_does_not_tell_things_apart(scenes: list) -> None:
    import cv2

    hues, classes = [], []
    for image, segments in scenes:
        hue = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0]
        for number, class_id in enumerate(segments.class_ids.tolist(), start=1):
            if class_id in CATEGORIES.thing_ids and not segments.is_crowd[number - 1]:
                hues.append(int(np.median(hue[segments.id_map == number])) // 18)
                classes.append(class_id - 1)
    table = np.zeros((10, 5))
    np.add.at(table, (hues, classes), 1)
    accuracy = table.max(1).sum() / table.sum()  # the best guess from ten hues, flattered
    assert 0.25 < accuracy < 0.6


def test_a_changed_generator_needs_a_new_version() -> None:
    image, segments = paint_scene(np.random.default_rng([0, 0, 0]))
    scene = zlib.crc32(segments.id_map.tobytes()), round(float(image.mean()))
    # If this fails: raise GENERATOR_VERSION, then put the new numbers here.
    assert (GENERATOR_VERSION, scene) == (2, (128092978, 143))


def test_layout_is_cocos(tmp_path: Path) -> None:
    dataset = shapes_panoptic(tmp_path / "shapes", "train", **SMALL)
    val = shapes_panoptic(tmp_path / "shapes", "val", **SMALL)
    assert (len(dataset), len(val)) == (6, 2)
    root = tmp_path / "shapes"
    assert {p.name for p in root.iterdir()} == {
        "train2017", "val2017", "annotations", "shapes.json"
    }  # fmt: skip
    table = json.loads((root / "annotations" / "panoptic_train2017.json").read_text())
    assert set(table) == {"images", "annotations", "categories"}
    assert {c["name"]: c["isthing"] for c in table["categories"]} == {
        c.name: int(c.is_thing) for c in CATEGORIES.classes
    }
    for index, (image, row) in enumerate(zip(table["images"], table["annotations"], strict=True)):
        sample = dataset.read(index)
        assert sample.image.shape == (image["height"], image["width"], 3)
        expected = paint_scene(np.random.default_rng([0, 0, index]))
        np.testing.assert_array_equal(sample.image, expected.image)
        np.testing.assert_array_equal(sample.segments.id_map, expected.segments.id_map)
        np.testing.assert_array_equal(sample.segments.class_ids, expected.segments.class_ids)
        np.testing.assert_array_equal(sample.segments.is_crowd, expected.segments.is_crowd)
        assert [s["area"] for s in row["segments_info"]] == sample.segments.areas().tolist()


def test_same_seed_same_bytes_and_other_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate_shapes(tmp_path / name, seed, {"train2017": 3, "val2017": 1})
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    image = Path("train2017") / "000000000001.png"
    assert (tmp_path / "a" / image).read_bytes() != (tmp_path / "c" / image).read_bytes()


def test_made_once_and_anew_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "shapes"
    shapes_panoptic(root, "train", **SMALL)
    first = root.stat().st_ino
    shapes_panoptic(root, "val", **SMALL)
    assert root.stat().st_ino == first
    monkeypatch.setattr(shapes, "GENERATOR_VERSION", GENERATOR_VERSION + 1)
    shapes_panoptic(root, "train", **SMALL)
    assert root.stat().st_ino != first
    assert len(shapes_panoptic(root, "train", train_images=2, val_images=1)) == 2
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["shapes"]  # no draft is left


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert len(shapes_panoptic(tmp_path, "val", **SMALL)) == 2


def test_other_peoples_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"did not write; give another folder as data\.root"):
        shapes_panoptic(tmp_path, "train", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_root_that_can_not_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*data\.root"):
        shapes_panoptic(tmp_path / "file" / "shapes", "train", **SMALL)


def test_an_interrupted_generation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shapes_panoptic(tmp_path / "shapes", "train", **SMALL)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        counts = pool.starmap(generate_shapes, [(root, 0, {"train2017": 8, "val2017": 2})] * 3)
    assert counts == [None] * 3
    assert len(shapes_panoptic(root, "train", train_images=8, val_images=2)) == 8
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["shapes"]


def test_unknown_split_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'; use train or val"):
        shapes_panoptic(tmp_path, "test")
