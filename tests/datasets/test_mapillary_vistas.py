"""Mapillary Vistas: classes from the config, samples from the panoptic files, broken roots."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapillary_tree import CROWD, FILES, LABELS, PANOPTIC_FILES, write_tree
from PIL import Image

from axialseg.datasets.mapillary_vistas import mapillary_vistas
from axialseg.datasets.transforms import EvalTransform
from axialseg.errors import UserError

KEY = FILES["training"][0][0]
FOLDER = "training/v2.0/panoptic"
TABLE = f"{FOLDER}/panoptic_2020.json"
VERSIONS = pytest.mark.parametrize("version", ["v1.2", "v2.0"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "vistas"
    write_tree(folder)
    return folder


@VERSIONS
def test_classes_are_those_of_the_config(root: Path, version: str) -> None:
    categories = mapillary_vistas(root, "training", version).categories
    scored = [(n, *row) for n, row in enumerate(LABELS[version], start=1) if row[3]]
    assert [(c.official_id, c.name, c.is_thing, c.color) for c in categories.classes] == [
        (n, readable, things, color) for n, _, readable, things, _, color in scored
    ]
    assert categories.class_ids == tuple(range(1, len(scored) + 1))
    assert categories.ignore_class == 0


@VERSIONS
@pytest.mark.parametrize("split", ["training", "validation"])
def test_samples_are_what_the_instance_files_show(root: Path, version: str, split: str) -> None:
    dataset = mapillary_vistas(root, split, version)
    assert len(dataset) == len(FILES[split])
    for index, (key, size) in enumerate(FILES[split]):
        sample = dataset.read(index)
        assert sample.image_id == key
        assert sample.image.shape == (*size, 3)
        assert sample.segments is not None
        ids = np.asarray(Image.open(root / split / version / "instances" / f"{key}.png"))
        label_ids = ids.astype(int) // 256
        expected = np.zeros(len(LABELS[version]), int)
        for category in dataset.categories.classes:
            expected[category.official_id - 1] = category.class_id
        semantic = sample.segments.semantic_map(0)
        np.testing.assert_array_equal(semantic, expected[label_ids])
        assert (semantic == 0).any()
        for number in range(1, len(sample.segments.class_ids) + 1):
            (value,) = np.unique(ids[sample.segments.id_map == number])
            assert (ids == value).sum() == (sample.segments.id_map == number).sum()
            name = LABELS[version][value // 256][0]
            is_crowd = name.startswith(CROWD) and value % 256 == 0
            assert sample.segments.is_crowd[number - 1] == is_crowd


@VERSIONS
def test_testing_has_images_alone(root: Path, version: str) -> None:
    dataset = mapillary_vistas(root, "testing", version)
    samples = [dataset.read(index) for index in range(len(dataset))]
    assert [(sample.image_id, sample.segments) for sample in samples] == [
        ("__5A", None),
        ("a-0b", None),
    ]
    assert dataset.categories == mapillary_vistas(root, "training", version).categories


@pytest.mark.parametrize("size", [(2448, 3264), (3000, 4000), (768, 1024), (1152, 1536)])
def test_images_of_any_size_get_the_longest_side_of_the_recipe(size: tuple[int, int]) -> None:
    transform = EvalTransform((2177, 2177), resize_range=(2177, 2177))
    for shape in (size, size[::-1]):
        prepared, shown = transform(np.zeros((*shape, 3), np.uint8))
        assert sorted(shown) == [1633, 2177]
        assert prepared.image.shape == (2177, 2177, 3)


def test_class_presence_counts_scored_classes(root: Path) -> None:
    dataset: Any = mapillary_vistas(root, "training", "v2.0")
    presence = dataset.class_presence()
    assert not presence[:, 0].any()
    for index, row in enumerate(presence):
        assert set(np.flatnonzero(row)) == set(dataset.read(index).segments.class_ids.tolist())


def remove(name: str, root: Path) -> None:
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(name: str, root: Path) -> None:
    (root / name).write_bytes((root / name).read_bytes()[:100])


def change(name: str, edit: Callable[[Any], object], root: Path) -> None:
    content = json.loads((root / name).read_text())
    edit(content)
    (root / name).write_text(json.dumps(content))


def smaller_png(root: Path) -> None:
    Image.new("RGB", (7, 8)).save(root / FOLDER / f"{KEY}.png")


def unlisted_id(root: Path) -> None:
    Image.new("RGB", (40, 24), (1, 2, 3)).save(root / FOLDER / f"{KEY}.png")


def other_version(root: Path) -> None:
    shutil.copy(root / f"training/v1.2/panoptic/{PANOPTIC_FILES['v1.2']}", root / TABLE)


def palette_png(root: Path) -> None:
    shutil.copy(root / f"training/v2.0/labels/{KEY}.png", root / FOLDER / f"{KEY}.png")


def unknown_category(content: Any) -> None:
    content["annotations"][0]["segments_info"][0]["category_id"] = 99


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (partial(remove, ""), r"vistas does not exist; set data\.root"),
        (partial(remove, "training/images"), r"training/images does not exist; unpack"),
        (partial(remove, "config_v2.0.json"), r"config_v2\.0\.json does not exist; unpack"),
        (partial(remove, FOLDER), r"training/v2\.0/panoptic does not exist; unpack"),
        (partial(remove, TABLE), r"panoptic_2020\.json does not exist; unpack"),
        (partial(truncate, "config_v2.0.json"), r"config_v2\.0\.json is not valid JSON .*again"),
        (partial(truncate, TABLE), r"panoptic_2020\.json is not valid JSON .*again"),
        (
            partial(change, "config_v2.0.json", lambda c: c.pop("labels")),
            r"config_v2\.0\.json is not a Mapillary .* class list \(KeyError: 'labels'\); unpack",
        ),
        (
            partial(change, "config_v2.0.json", lambda c: c["labels"][2].pop("color")),
            r"config_v2\.0\.json is not a Mapillary .*'color'\); unpack",
        ),
        (partial(remove, f"training/images/{KEY}.jpg"), rf"{KEY}\.jpg does not exist; unpack"),
        (partial(truncate, f"training/images/{KEY}.jpg"), rf"{KEY}\.jpg cannot be read .*again"),
        (partial(remove, f"{FOLDER}/{KEY}.png"), rf"panoptic/{KEY}\.png does not exist; unpack"),
        (partial(truncate, f"{FOLDER}/{KEY}.png"), rf"{KEY}\.png cannot be read .*again"),
        (smaller_png, rf"{KEY}\.png is 7 x 8 pixels but its image .*is 40 x 24; both must"),
        (unlisted_id, rf"{KEY}\.png has the id 197121 at row 0.*does not list.*; take"),
        (
            palette_png,
            rf"{KEY}\.png is not a panoptic id PNG \(its pixels are P, not RGB, .*; give",
        ),
        (
            other_version,
            r"panoptic_2020\.json: category 4 is named Car.*not label 4 of .*v2\.0\.json; take",
        ),
        (
            partial(change, TABLE, unknown_category),
            r"panoptic_2020\.json: segment 1 of .*category id 99, which is none.*; give",
        ),
    ],
)
def test_broken_data_is_one_sentence_with_file_and_cure(
    root: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(root)
    with pytest.raises(UserError, match=sentence) as caught:
        mapillary_vistas(root, "training", "v2.0").read(0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(root) in message


@pytest.mark.parametrize(
    ("split", "version", "sentence"),
    [
        ("train", "v2.0", "has no split 'train'; use one of training, validation, testing"),
        ("training", "v1.1", r"has no version 'v1\.1'; give one of v1\.2, v2\.0"),
    ],
)
def test_wrong_arguments(root: Path, split: str, version: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        mapillary_vistas(root, split, version)
