"""The doctor finds each kind of damage, names the file, and knows whether training would fail."""

import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cityscapes_tree
import mapillary_tree
import numpy as np
import pytest
from coco_tree import COUNT, SIZE, change_json, json_file, write_ids, write_tree
from PIL import Image

from axialseg.data_check.check import SplitReport, check_split
from axialseg.data_check.page import page
from axialseg.data_check.report import by_kind, summary_lines, write_findings, write_statistics
from axialseg.data_check.statistics import SplitStatistics
from axialseg.datasets.changed_classes import ChangedDataset
from axialseg.datasets.cityscapes import Cityscapes, CityscapesPanoptic
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.image_folder import ImageFolder
from axialseg.datasets.inspection.inspector import Inspectable, measure
from axialseg.datasets.mapillary_vistas import mapillary_vistas
from axialseg.datasets.sample import PanopticDataset, PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.class_changes import ClassChanges

IMAGE = "train2017/000000000003.jpg"
PNG = "annotations/panoptic_train2017/000000000003.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path, ("train",))
    return tmp_path


def open_coco(root: Path, **changes: Any) -> CocoPanoptic:
    arguments = {
        "image_folder": "train2017",
        "annotation_file": "annotations/panoptic_train2017.json",
        "panoptic_folder": "annotations/panoptic_train2017",
    } | changes
    return CocoPanoptic(root, **arguments)


def check(dataset: Inspectable, workers: int = 0) -> SplitReport:
    return check_split("train", dataset, workers, lambda line: None)


def training_fails(dataset: PanopticDataset) -> bool:
    """Whether the reader refuses any image."""
    try:
        for index in range(len(dataset)):
            dataset.read(index)
    except UserError:
        return True
    return False


def test_faultless_data(root: Path) -> None:
    report = check(open_coco(root))
    assert report.findings == []
    assert report.length == COUNT
    assert report.healthy == list(range(COUNT))
    statistics = report.statistics
    assert (statistics.images, statistics.labelled) == (COUNT, COUNT)
    assert statistics.sizes == {SIZE: COUNT}
    # By hand: cats' crowd 4 x 8; dogs 6 x 7 and 12 x 10; void 3; sky and road share the rest.
    assert statistics.pixels.tolist() == [0, 32 * 5, 162 * 5, (480 - 3 - 42 - 32 - 40) * 5, 400 * 5]
    assert statistics.segments.tolist() == [0, 0, 2 * 5, 5, 5]
    assert statistics.images_with.tolist() == [0, 5, 5, 5, 5]
    assert statistics.crowds.tolist() == [0, 5, 0, 0, 0]
    assert statistics.crowd_pixels.tolist() == [0, 160, 0, 0, 0]
    assert statistics.void == 15
    assert statistics.thing_areas[5:7].tolist() == [5, 5]
    assert statistics.things_per_image == {2: 5}
    total = statistics.pixels.sum() + statistics.void
    assert total == COUNT * math.prod(SIZE)


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])

    return damage


def extra(name: str) -> Callable[[Path], None]:
    return lambda root: Image.new("RGB", (4, 4)).save(root / name)


def resize(name: str) -> Callable[[Path], None]:
    return lambda root: Image.open(root / name).resize((20, 12)).save(root / name)


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    return partial(
        change_json, change=lambda content: change(content["annotations"][3]["segments_info"])
    )


def content(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return partial(change_json, change=change)


def grey_ids(root: Path) -> None:
    Image.new("L", SIZE[::-1], 99).save(root / PNG)


def dangling(name: str) -> Callable[[Path], None]:
    return lambda root: ((root / name).unlink(), (root / name).symlink_to("nowhere"))


def folder_at(name: str) -> Callable[[Path], None]:
    return lambda root: ((root / name).unlink(), (root / name).mkdir())


def pipe_at(name: str) -> Callable[[Path], None]:
    return lambda root: ((root / name).unlink(), os.mkfifo(root / name))


def turned_by_exif(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(root / IMAGE) as image:
        image.save(root / IMAGE, exif=exif)


def two_images_of_one_id(content: dict[str, Any]) -> None:
    content["images"][3]["id"] = content["annotations"][3]["image_id"] = 2


def all_void(root: Path) -> None:
    write_ids(root / PNG, np.zeros(SIZE, int))
    rows(lambda segments: segments.clear())(root)


@pytest.mark.parametrize(
    ("damage", "kind", "file", "fails"),
    [
        (remove(IMAGE), "missing file", IMAGE, True),
        (remove(PNG), "missing file", PNG, True),
        (truncate(IMAGE), "corrupt file", IMAGE, True),
        (truncate(PNG), "corrupt file", PNG, True),
        (grey_ids, "corrupt file", PNG, True),
        (extra("train2017/x.jpg"), "extra file", "train2017/x.jpg", False),
        (extra("annotations/panoptic_train2017/x.png"), "extra file", "x.png", False),
        (resize(IMAGE), "size mismatch", IMAGE, True),
        (
            content(lambda c: c["images"][3].update(height=25)),
            "size mismatch",
            IMAGE,
            False,
        ),
        (rows(lambda s: s.pop(2)), "id not in JSON", PNG, True),
        (rows(lambda s: s[2].update(category_id=8)), "unknown category", PNG, True),
        (rows(lambda s: s[2].update(id=0)), "id out of range", PNG, True),
        (rows(lambda s: s.append(s[0])), "id listed twice", PNG, True),
        (rows(lambda s: s.append(s[0] | {"id": 77})), "segment without pixels", PNG, False),
        (rows(lambda s: s[2].update(area=41)), "wrong area", PNG, False),
        (rows(lambda s: s[2].update(bbox=[5, 4, 9, 6])), "wrong bbox", PNG, False),
        (all_void, "empty image", IMAGE, False),
        (rows(lambda s: s[1].update(category_id=90)), "stuff with instances", IMAGE, False),
        (rows(lambda s: s[1].update(iscrowd=1)), "stuff with instances", IMAGE, False),
        (content(lambda c: c["images"].pop(3)), "image not listed", "panoptic_train", True),
        (
            content(lambda c: c["annotations"].pop(3)),
            "image without annotation",
            "000000000003.jpg",
            False,
        ),
        (
            content(lambda c: c["annotations"].append(c["annotations"][3])),
            "image listed twice",
            "panoptic_train2017.json",
            True,
        ),
        (content(two_images_of_one_id), "image listed twice", "panoptic_train2017.json", True),
        (dangling(IMAGE), "missing file", IMAGE, True),
        (dangling(PNG), "missing file", PNG, True),
        (folder_at(IMAGE), "missing file", IMAGE, True),
        (pipe_at(IMAGE), "missing file", IMAGE, True),
        (pipe_at(PNG), "missing file", PNG, True),
        (
            content(lambda c: c["images"][3].update(file_name="../../x.jpg")),
            "file outside the data root",
            "../../x.jpg",
            True,
        ),
        (
            content(lambda c: c["annotations"][3].update(file_name="../../../x.png")),
            "file outside the data root",
            "../../../x.png",
            True,
        ),
        (
            content(lambda c: c["images"][3].update(file_name="/etc/x.jpg")),
            "unreadable annotations",
            "",
            True,
        ),
        (turned_by_exif, "turned by Exif", IMAGE, False),
        (
            content(lambda c: c["categories"][0].update(name=None)),
            "unreadable annotations",
            "",
            True,
        ),
        (content(lambda c: c["annotations"].clear()), "no annotation", "panoptic_train", True),
        (content(lambda c: c.pop("images")), "unreadable annotations", "", True),
        (content(lambda c: c["categories"].clear()), "unreadable annotations", "", True),
    ],
)
def test_each_damage_is_found_and_named(
    root: Path, damage: Callable[[Path], None], kind: str, file: str, fails: bool
) -> None:
    damage(root)
    report = check(open_coco(root))
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) >= 1
    assert found[0].is_error is fails
    assert any(file in finding.file for finding in found)
    assert all("\n" not in finding.text for finding in report.findings)
    assert all(finding.text.endswith(".") for finding in report.findings)
    assert any(Path(file).name in finding.text for finding in found)
    assert bool(report.errors) is fails
    assert training_fails(open_coco(root)) is fails
    others = {finding.kind for finding in report.findings} - {kind}
    # What goes with some of them: a damaged row also differs in area, and the like.
    assert others <= {
        *("extra file", "id not in JSON", "segment without pixels", "image without annotation"),
        *("wrong area", "wrong bbox", "stuff with instances", "empty image"),
    }


def test_wrong_images_that_training_leaves_out_are_warnings(root: Path) -> None:
    rows(lambda s: s.append(s[0]))(root)
    remove("train2017/000000000001.jpg")(root)
    dangling("annotations/panoptic_train2017/000000000000.png")(root)
    assert len(check(open_coco(root)).errors) == 3
    dataset = open_coco(root, skip_invalid=True)
    report = check(dataset)
    assert report.errors == []
    said = [finding for finding in report.findings if "left out: data.skip_invalid" in finding.text]
    assert sorted(finding.kind for finding in said) == [
        *("id listed twice", "missing file", "missing file")
    ]
    assert len(dataset) == COUNT - 3
    assert [dataset.read(index).image_id for index in range(len(dataset))] == [2, 4]


def test_whatever_else_is_wrong_with_an_image_that_is_left_out(root: Path) -> None:
    rows(lambda s: s[1].update(id=s[0]["id"]))(root)  # its PNG has an id now that no row has
    assert {f.kind for f in check(open_coco(root)).errors} == {"id listed twice", "id not in JSON"}
    dataset = open_coco(root, skip_invalid=True)
    assert check(dataset).errors == []
    assert len(dataset) == COUNT - 1


def test_a_name_may_go_up_inside_the_root(root: Path) -> None:
    (root / "more").mkdir()
    (root / IMAGE).rename(root / "more" / "x.jpg")
    content(lambda c: c["images"][3].update(file_name="../more/x.jpg"))(root)
    assert [finding.kind for finding in check(open_coco(root)).errors] == []
    assert open_coco(root).read(3).name == "../more/x.jpg"


def test_backslashes_of_windows_tools(root: Path) -> None:
    for folder, name in (("train2017", IMAGE), ("annotations/panoptic_train2017", PNG)):
        (root / folder / "sub").mkdir()
        (root / name).rename(root / folder / "sub" / Path(name).name)
    content(lambda c: c["images"][3].update(file_name=r"sub\000000000003.jpg"))(root)
    content(lambda c: c["annotations"][3].update(file_name=r"sub\000000000003.png"))(root)
    dataset = open_coco(root)
    assert check(dataset).findings == []
    assert dataset.read(3).segments is not None


def test_turned_photographs_can_be_turned(root: Path) -> None:
    stored = open_coco(root).read(3).image
    turned_by_exif(root)
    dataset = open_coco(root, apply_exif=True)
    assert check(dataset).findings == []
    difference = dataset.read(3).image.astype(int) - np.rot90(stored, 2)
    assert np.abs(difference).mean() < 20  # a JPEG of noise, saved twice
    assert np.abs(open_coco(root).read(3).image.astype(int) - stored).mean() < 20
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / IMAGE) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(root / IMAGE, exif=exif)
    with pytest.raises(UserError, match=r"or the image's Exif data turn it, and data\.apply_exif"):
        open_coco(root).read(3)
    assert dataset.read(3).image.shape == (*SIZE, 3)


def test_damaged_json_is_reported_not_raised(root: Path) -> None:
    json_file(root).write_text(json_file(root).read_text()[:99])
    report = check(open_coco(root))
    (finding,) = report.findings
    assert "panoptic_train2017.json is not valid JSON" in finding.text
    assert page("x", [report], 2, "findings.csv").count("<h2>") == 1


def test_everything_at_once_in_the_order_of_the_images(root: Path) -> None:
    truncate("train2017/000000000004.jpg")(root)
    truncate("train2017/000000000001.jpg")(root)
    remove("annotations/panoptic_train2017/000000000000.png")(root)
    rows(lambda s: s[2].update(area=41))(root)
    report = check(open_coco(root))
    assert [(f.kind, Path(f.file).stem[-1]) for f in report.findings] == [
        ("missing file", "0"),
        ("corrupt file", "1"),
        ("corrupt file", "4"),
        ("wrong area", "3"),
    ]
    assert report.healthy == [2, 3]
    assert report.examples == {"wrong area": 3}
    assert (report.statistics.images, report.statistics.labelled) == (3, 4)


def test_processes_find_the_same(root: Path) -> None:
    truncate(IMAGE)(root)
    rows(lambda s: s[2].update(area=41))(root)
    one, other = check(open_coco(root)), check(open_coco(root), workers=2)
    assert one.findings == other.findings
    assert one.healthy == other.healthy
    for name, value in vars(one.statistics).items():
        np.testing.assert_equal(getattr(other.statistics, name), value)


def test_given_classes_are_the_judge(root: Path) -> None:
    classes = [(1, "cat", True, (0, 0, 0)), (7, "dog", True, (0, 0, 0))]
    report = check(open_coco(root, categories=contiguous_categories(classes)))
    assert {f.kind for f in report.findings} == {"unknown category"}
    assert len(report.errors) == COUNT
    assert "category ids 90, 91" in report.errors[0].text


def test_objects_on_nothing_but_void(root: Path) -> None:
    dataset = open_coco(root)
    assert "mostly void" not in {f.kind for f in check(dataset).findings}
    report = check(ChangedDataset(dataset, ClassChanges(drop=["sky", "road"])))
    (found,) = [f for f in report.findings if f.kind == "mostly void"]
    assert not found.is_error
    assert found.text.startswith("83 % of the pixels are void")  # all but 162 of 960
    assert "rest=background" in found.text


def test_images_without_ground_truth(root: Path) -> None:
    truncate(IMAGE)(root)
    classes = contiguous_categories([(1, "cat", True, (0, 0, 0))])
    listed = open_coco(root, panoptic_folder=None, categories=classes)
    for dataset in (listed, ImageFolder(root / "train2017", classes)):
        report = check(dataset)
        assert [finding.kind for finding in report.findings] == ["corrupt file"]
        assert (report.statistics.images, report.statistics.labelled) == (COUNT - 1, 0)
    remove(IMAGE)(root)
    assert [finding.kind for finding in check(listed).findings] == ["missing file"]


def test_boxes_may_leave_out_their_last_row_and_column(root: Path) -> None:
    rows(lambda s: s[2].update(bbox=[5, 4, 6, 5]))(root)
    assert check(open_coco(root)).findings == []


def test_measure_equals_a_loop_over_values() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = rng.integers(1, 12, 2)
        id_map = rng.integers(0, 4, shape) * 1000
        pixels = measure(id_map)
        assert pixels.values.tolist() == np.unique(id_map).tolist()
        for value, area, (x, y, width, height) in zip(*pixels, strict=True):
            ys, xs = np.nonzero(id_map == value)
            assert area == len(ys)
            assert (x, y) == (xs.min(), ys.min())
            assert (x + width, y + height) == (xs.max() + 1, ys.max() + 1)


# --- Cityscapes and Mapillary Vistas ---

CITY_IMAGE = "leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png"
CITY_IDS = "gtFine/train/bochum/bochum_000000_000313_gtFine_instanceIds.png"


@pytest.fixture
def city(tmp_path: Path) -> Path:
    cityscapes_tree.write_tree(tmp_path)
    cityscapes_tree.create_panoptic_images(tmp_path, "train")
    return tmp_path


def unknown_label(root: Path) -> None:
    ids = np.array(Image.open(root / CITY_IDS))
    ids[3, 5] = 34002
    cityscapes_tree.write_truth(root / CITY_IDS.removesuffix("_instanceIds.png"), ids)


def smaller_ids(root: Path) -> None:
    stem = root / CITY_IDS.removesuffix("_instanceIds.png")
    cityscapes_tree.write_truth(stem, np.full((16, 32), 7))


@pytest.mark.parametrize(
    ("damage", "kind", "file"),
    [
        (remove(CITY_IMAGE), "missing file", CITY_IMAGE),
        (remove(CITY_IDS), "missing file", CITY_IDS),
        (truncate(CITY_IMAGE), "corrupt file", CITY_IMAGE),
        (truncate(CITY_IDS), "corrupt file", CITY_IDS),
        (unknown_label, "unknown category", CITY_IDS),
        (smaller_ids, "size mismatch", CITY_IDS),
    ],
)
def test_damaged_cityscapes(
    city: Path, damage: Callable[[Path], None], kind: str, file: str
) -> None:
    damage(city)
    dataset = Cityscapes(city, ["train", "val"])
    errors = check(dataset).errors
    assert [(error.kind, error.file) for error in errors] == [(kind, str(city / file))]
    assert str(city / file) in errors[0].text
    assert training_fails(Cityscapes(city, ["train", "val"]))


def test_missing_and_corrupt_files_of_cityscapes_together(city: Path) -> None:
    remove(CITY_IMAGE)(city)
    truncate(CITY_IDS.replace("bochum", "aachen").replace("000313", "000019"))(city)
    kinds = [error.kind for error in check(Cityscapes(city, ["train"])).errors]
    assert kinds == ["missing file", "corrupt file"]


def test_both_forms_of_cityscapes_have_the_same_statistics(city: Path) -> None:
    one, other = check(Cityscapes(city, ["train"])), check(CityscapesPanoptic(city, ["train"]))
    assert one.errors == other.errors == []
    for name, value in vars(one.statistics).items():
        np.testing.assert_equal(getattr(other.statistics, name), value)
    assert one.statistics.crowds.sum() > 0


def test_test_images_of_cityscapes(city: Path) -> None:
    report = check(Cityscapes(city, ["test"]))
    assert report.findings == []
    assert (report.statistics.images, report.statistics.labelled) == (1, 0)


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary_vistas(tmp_path: Path, version: str) -> None:
    mapillary_tree.write_tree(tmp_path)
    dataset = mapillary_vistas(tmp_path, "training", version)
    report = check(dataset)
    assert report.errors == []
    assert "wrong bbox" in {finding.kind for finding in report.findings}  # the tree's are [0,0,1,1]
    expected = SplitStatistics(dataset.categories.semantic_channels)
    for index in range(len(dataset)):
        segments = dataset.read(index).segments
        expected.pixels += np.bincount(
            segments.class_ids, segments.areas(), minlength=expected.channels
        ).astype(int)
    assert report.statistics.pixels.tolist() == expected.pixels.tolist()
    (image, *_) = sorted((tmp_path / "training/images").iterdir())
    image.unlink()
    (error,) = check(dataset).errors
    assert (error.kind, error.file) == ("missing file", str(image))
    report = check(mapillary_vistas(tmp_path, "testing", version))
    assert report.findings == []


KEY = "-1ZjN5D4xDaVvm5hNrR5wA"
VISTAS_IMAGE = f"training/images/{KEY}.jpg"
VISTAS_PNG = f"training/v2.0/panoptic/{KEY}.png"


def vistas_rows(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "training/v2.0/panoptic/panoptic_2020.json"
        table = json.loads(path.read_text())
        change(next(r["segments_info"] for r in table["annotations"] if r["image_id"] == KEY))
        path.write_text(json.dumps(table))

    return damage


@pytest.mark.parametrize(
    ("damage", "kind", "file", "fails"),
    [
        (remove(VISTAS_PNG), "missing file", VISTAS_PNG, True),
        (extra("training/images/x.jpg"), "extra file", "training/images/x.jpg", False),
        (truncate(VISTAS_IMAGE), "corrupt file", VISTAS_IMAGE, True),
        (truncate(VISTAS_PNG), "corrupt file", VISTAS_PNG, True),
        (resize(VISTAS_IMAGE), "size mismatch", VISTAS_PNG, True),
        (vistas_rows(lambda s: s.pop(0)), "id not in JSON", VISTAS_PNG, True),
        (vistas_rows(lambda s: s[0].update(category_id=99)), "unknown category", VISTAS_PNG, True),
        (vistas_rows(lambda s: s[0].update(area=1)), "wrong area", VISTAS_PNG, False),
    ],
)
def test_damaged_mapillary_vistas(
    tmp_path: Path, damage: Callable[[Path], None], kind: str, file: str, fails: bool
) -> None:
    mapillary_tree.write_tree(tmp_path)
    damage(tmp_path)
    dataset = mapillary_vistas(tmp_path, "training", "v2.0")
    found = {(f.kind, f.file): f.is_error for f in check(dataset).findings}
    assert found[kind, str(tmp_path / file)] is fails
    assert training_fails(mapillary_vistas(tmp_path, "training", "v2.0")) is fails


# --- pictures of what a reader refuses ---


def test_damage_that_decoders_pass_over_is_a_warning(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(root / IMAGE, quality=95)
    content = bytearray((root / IMAGE).read_bytes())
    content[-200:-100] = bytes(100)
    (root / IMAGE).write_bytes(content)
    report = check(open_coco(root))
    (finding,) = report.findings
    assert (finding.kind, finding.is_error) == ("corrupt file", False)
    assert f"{root / IMAGE} is damaged (Corrupt JPEG data: " in finding.text
    assert capfd.readouterr().err == ""
    assert not training_fails(open_coco(root))
    assert report.healthy == list(range(COUNT))


def test_files_that_hold_no_image(root: Path) -> None:
    (root / IMAGE).write_bytes(b"")
    (root / PNG).write_text("a text")
    texts = [finding.text for finding in check(open_coco(root)).findings]
    assert texts == [
        f"{root / name} cannot be read (it holds no image); it may be truncated: unpack or "
        "download it again."
        for name in (IMAGE, PNG)
    ]


def same_sample(one: PanopticSample, other: PanopticSample) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    assert one.segments is not None
    assert other.segments is not None
    assert one.segments.areas().sum() == other.segments.areas().sum()
    np.testing.assert_array_equal(one.segments.semantic_map(255), other.segments.semantic_map(255))
    assert np.count_nonzero(one.segments.is_crowd) == np.count_nonzero(other.segments.is_crowd)


def test_pictures_show_what_the_readers_read(root: Path, city: Path, tmp_path: Path) -> None:
    mapillary_tree.write_tree(tmp_path / "vistas")
    for dataset in (
        open_coco(root),
        Cityscapes(city, ["train"]),
        CityscapesPanoptic(city, ["train"]),
        mapillary_vistas(tmp_path / "vistas", "training", "v2.0"),
    ):
        inspector = dataset.inspector()
        for index in range(len(dataset)):
            same_sample(inspector.sample(index), dataset.read(index))
    images = (Cityscapes(city, ["test"]), mapillary_vistas(tmp_path / "vistas", "testing", "v2.0"))
    for dataset in images:
        sample = dataset.inspector().sample(0)
        assert sample.segments is None
        np.testing.assert_array_equal(sample.image, dataset.read(0).image)


def test_what_is_not_known_is_shown_as_void(root: Path) -> None:
    area = open_coco(root).read(3).segments.areas()
    rows(lambda s: (s.pop(2), s[0].update(category_id=8)))(root)
    report = check(open_coco(root))
    assert set(report.examples) >= {"unknown category", "id not in JSON"}
    assert set(report.examples.values()) == {3}
    sample = report.inspector.sample(3)
    np.testing.assert_array_equal(sample.segments.areas(), area[[1, *range(3, len(area))]])
    html = page("x", [report], 1, "findings.csv")
    assert html.count("<figure>") == 1 + len(report.examples)
    assert '<span class="error">unknown category</span>' in html


# --- what is written ---


def test_text_table_and_page(root: Path, tmp_path: Path) -> None:
    for n in (0, 1, 2, 4):
        truncate(f"train2017/{n:012d}.jpg")(root)
        remove(f"annotations/panoptic_train2017/{n:012d}.png")(root)
    rows(lambda s: s[2].update(area=41))(root)
    for n in range(3):
        extra(f"train2017/<b>{n}.jpg")(root)
    dataset = open_coco(root)
    report = check(dataset)
    groups = by_kind(report.findings)
    assert [(kind, len(found)) for (_, kind), found in groups.items()] == [
        ("missing file", 4),
        ("corrupt file", 4),
        ("extra file", 3),
        ("wrong area", 1),
    ]
    lines = list(summary_lines(report, tmp_path / "findings.csv"))
    assert lines[0].startswith("train: 5 images, 4 segments, 1 crowds; 8 errors, 4 warnings")
    assert lines[1] == "  error: missing file, 4"

    write_findings([report], tmp_path / "findings.csv")
    table = (tmp_path / "findings.csv").read_text().splitlines()
    assert table[0] == "split,severity,kind,file,text"
    assert len(table) == 13
    write_statistics([report], tmp_path / "statistics.json")
    assert '"name": "dog"' in (tmp_path / "statistics.json").read_text()

    html = page("coco: a & b", [report], 3, "findings.csv")
    assert "coco: a &amp; b" in html
    assert "Training would fail" in html
    assert "&lt;b&gt;0.jpg" in html
    assert "<b>0.jpg" not in html
    assert html.count('src="data:image/jpeg;base64,') == 2  # the healthy one, and as an example
    assert "http" not in html.replace("http://www.w3.org", "")
    assert [name for name in ("cat", "dog", "sky", "road") if f"</span>{name}</td>" in html] == [
        *("cat", "dog", "sky", "road")
    ]
