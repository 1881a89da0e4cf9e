"""Files of predictions, as the official scorer takes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.coco_annotations import read_annotations, read_segments
from axialseg.formats.coco_panoptic import CocoPanopticWriter, color_like_ids
from axialseg.formats.id_png import rgb_from_ids
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR, segments_from_panoptic_map

# Official ids out of the order of the class ids' names, with gaps.
CATEGORIES = contiguous_categories(
    [
        (3, "cat", True, (200, 10, 10)),
        (8, "dog", True, (10, 200, 10)),
        (92, "grass", False, (10, 10, 10)),
    ]
)


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
    assert annotations.image_files.tolist() == ["one/a.jpg", "two/a.jpg"]
    assert annotations.png_files.tolist() == ["one/a.png", "two/a.png"]
    for i in range(2):
        segments = read_segments(annotations, i, tmp_path / "predictions", (32, 48))
        expected = segments_from_panoptic_map(prediction(i), 0)
        assert (segments.id_map == expected.id_map).all()
        assert (segments.class_ids == expected.class_ids).all()


def test_names_of_pngs_are_unique_and_stay_below_the_folder(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", r"sub\a.jpg", "../../b.jpg", "/c/d.jpg", "sub/a.jpeg"]
    with CocoPanopticWriter(tmp_path / "out", CATEGORIES) as writer:
        for number, name in enumerate(names):
            writer.write(prediction(0), number, name)
    table = json.loads((tmp_path / "out" / "predictions.json").read_text())
    written = [row["file_name"] for row in table["annotations"]]
    listed = ["a.jpg", "a.png", "sub/a.jpg", "b.jpg", "c/d.jpg", "sub/a.jpeg"]
    assert [row["file_name"] for row in table["images"]] == listed
    assert written == ["a.png", "a_2.png", "sub/a.png", "b.png", "c/d.png", "sub/a_2.png"]
    assert all((tmp_path / "out" / "predictions" / name).is_file() for name in written)
    assert len(list(tmp_path.rglob("*.png"))) == len(names)


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
    with pytest.raises(UserError, match="file/out cannot be written"):
        CocoPanopticWriter(tmp_path / "file" / "out", CATEGORIES)


def test_ids_look_like_the_class_and_never_repeat() -> None:
    class_ids = np.array([1] * 300 + [2, 3], np.int64)
    ids = color_like_ids(class_ids, CATEGORIES)
    assert len(set(ids)) == 302
    assert 0 not in ids
    assert rgb_from_ids(np.array(ids))[[0, 300]].tolist() == [[200, 10, 10], [10, 200, 10]]
    black = contiguous_categories([(1, "night", False, (0, 0, 0))])
    assert 0 not in color_like_ids(np.array([1, 1]), black)
