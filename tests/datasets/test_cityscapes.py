"""Cityscapes: samples from instance ids and from the official panoptic files, and broken roots."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import FILES, LABELS, create_panoptic_images, write_tree, write_truth
from PIL import Image

from axialseg.datasets.cityscapes import Cityscapes, CityscapesPanoptic
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

IMAGE = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
TRUTH = "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
TABLE = "gtFine/cityscapes_panoptic_train"
PNG = f"{TABLE}/aachen_000000_000019_gtFine_panoptic.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cityscapes"
    write_tree(folder)
    return folder


def assert_same(one: PanopticSample, other: PanopticSample) -> None:
    assert (one.image_id, one.file_name) == (other.image_id, other.file_name)
    np.testing.assert_array_equal(one.image, other.image)
    assert one.segments is not None
    assert other.segments is not None
    for a, b in zip(one.segments, other.segments, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_written_instance_ids_have_sixteen_bits(root: Path) -> None:
    header = (root / TRUTH).read_bytes()[:26]
    assert header[24:26] == bytes([16, 0])  # bit depth, grey


@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_are_those_of_the_official_panoptic_files(root: Path, split: str) -> None:
    create_panoptic_images(root, split)
    ours, official = Cityscapes(root, [split]), CityscapesPanoptic(root, [split])
    assert len(ours) == len(official) == len(FILES[split])
    for index in range(len(ours)):
        assert_same(ours.read(index), official.read(index))
    np.testing.assert_array_equal(ours.class_presence(), official.class_presence())


def test_groups_are_crowds_and_unscored_labels_are_void(root: Path) -> None:
    # Also by hand, for the official script is restated here.
    ids = np.array([[7, 7, 26, 26000], [26001, 24, 29003, 30], [0, 3, 18, 11], [7, 33, 33000, 9]])
    ids = ids.repeat(8, 0).repeat(16, 1)
    write_truth(root / TRUTH.removesuffix("_instanceIds.png"), ids)
    sample = Cityscapes(root, ["train"]).read(0)
    assert sample.segments is not None
    names = [CITYSCAPES.by_class_id[i].name for i in sample.segments.class_ids.tolist()]
    assert list(zip(names, sample.segments.is_crowd.tolist(), strict=True)) == [
        ("road", False),
        ("building", False),
        ("person", True),
        ("car", True),
        ("bicycle", True),
        ("car", False),
        ("car", False),
        ("bicycle", False),
    ]
    expected = np.array([[1, 1, 4, 6], [7, 3, 0, 0], [0, 0, 0, 2], [1, 5, 8, 0]])
    np.testing.assert_array_equal(sample.segments.id_map[::8, ::16], expected)


def test_classes_and_their_labels() -> None:
    scored = {n: (name, things) for n, (name, ignored, things) in LABELS.items() if not ignored}
    for number, (name, is_thing) in scored.items():
        category = CITYSCAPES.by_official_id[number]
        assert (category.name, category.is_thing) == (name, is_thing)
    assert (len(CITYSCAPES), CITYSCAPES.ignore_class) == (19, 255)


def test_splits_come_one_after_the_other(root: Path) -> None:
    both = Cityscapes(root, ["val", "train"])
    ids = [both.read(index).image_id for index in range(len(both))]
    assert ids == ["frankfurt_000001_000538", "aachen_000000_000019", "bochum_000000_000313"]
    with pytest.raises(ValueError, match="read-only"):
        both.read(0).image[0] = 0


def test_test_images_have_no_ground_truth(root: Path) -> None:
    shutil.rmtree(root / "gtFine" / "test")
    dataset = Cityscapes(root, ["test"])
    sample = dataset.read(0)
    assert sample.segments is None
    assert sample.image_id == "berlin_000000_000019"


def test_coarse_annotations(root: Path) -> None:
    shutil.rmtree(root / "gtFine")
    write_tree(root, "gtCoarse")
    (root / "leftImg8bit/train").rename(root / "leftImg8bit/train_extra")
    (root / "gtCoarse/train").rename(root / "gtCoarse/train_extra")
    dataset = Cityscapes(root, ["train_extra"], annotation_folder="gtCoarse")
    assert len(dataset) == 2
    assert dataset.read(1).segments is not None


def test_class_presence(root: Path) -> None:
    dataset = Cityscapes(root, ["train"])
    presence = dataset.class_presence()
    assert presence.shape == (2, 19)
    for index, row in enumerate(presence):
        segments = dataset.read(index).segments
        assert segments is not None
        assert set(np.flatnonzero(row)) == set(segments.class_ids.tolist())


def remove(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def truncate(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:120])

    return damage


def remove_root(root: Path) -> None:
    shutil.rmtree(root)


def empty_split(root: Path) -> None:
    shutil.rmtree(root / "leftImg8bit/train")
    (root / "leftImg8bit/train").mkdir()


def eight_bits(root: Path) -> None:
    (root / TRUTH).write_bytes((root / TRUTH.replace("instanceIds", "labelIds")).read_bytes())


def smaller_truth(root: Path) -> None:
    write_truth(root / TRUTH.removesuffix("_instanceIds.png"), np.full((16, 32), 7))


def unknown_label(root: Path) -> None:
    ids = np.full((32, 64), 7)
    ids[3, 5] = 34002
    write_truth(root / TRUTH.removesuffix("_instanceIds.png"), ids)


def check_sentence(root: Path, sentence: str, read: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(root) in message


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove_root, r"cityscapes does not exist; set data\.root .*leftImg8bit/train"),
        (remove("leftImg8bit"), r"leftImg8bit/train does not exist; unpack .*or set data\.root"),
        (remove("gtFine"), r"gtFine/train does not exist; unpack .*or set data\.root"),
        (empty_split, r"leftImg8bit/train holds no <city>/\*_leftImg8bit\.png; unpack"),
        (remove(IMAGE), r"000019_leftImg8bit\.png does not exist; unpack all of leftImg8bit"),
        (remove(TRUTH), r"000019_gtFine_instanceIds\.png does not exist; unpack all of gtFine"),
        (remove("gtFine/train/aachen"), r"000019_gtFine_instanceIds\.png does not exist; unpack"),
        (truncate(IMAGE), r"000019_leftImg8bit\.png cannot be read .*download it again"),
        (truncate(TRUTH), r"instanceIds\.png cannot be read .*download it again"),
        (eight_bits, r"instanceIds\.png is not an instance id .*are L, not 16-bit grey\); unpack"),
        (smaller_truth, r"instanceIds\.png is 32 x 16 pixels but its image .*is 64 x 32; both"),
        (unknown_label, r"instanceIds\.png has the id 34002 at row 3, column 5, which.*; unpack"),
    ],
)
def test_broken_data_is_one_sentence_with_file_and_cure(
    root: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(root)
    check_sentence(root, sentence, lambda: Cityscapes(root, ["train"]).read(0))


@pytest.mark.parametrize("name", [IMAGE, TRUTH])
def test_files_that_vanish_later(root: Path, name: str) -> None:
    dataset = Cityscapes(root, ["train"])
    (root / name).unlink()
    check_sentence(root, r"000019_\w+\.png does not exist; unpack", lambda: dataset.read(0))


def smaller_png(root: Path) -> None:
    Image.new("RGB", (32, 16)).save(root / PNG)


def unlisted_id(root: Path) -> None:
    Image.new("RGB", (64, 32), (9, 9, 9)).save(root / PNG)


def train_ids(root: Path) -> None:
    path = root / f"{TABLE}.json"
    path.write_text(path.read_text().replace('"category_id": 7,', '"category_id": 0,'))


def other_images(root: Path) -> None:
    path = root / f"{TABLE}.json"
    path.write_text(path.read_text().replace("aachen_000000_000019", "aachen_000000_000020"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove_root, r"cityscapes does not exist; set data\.root"),
        (remove(TABLE), r"cityscapes_panoptic_train does not exist; unpack"),
        (remove(f"{TABLE}.json"), r"cityscapes_panoptic_train\.json does not exist; unpack"),
        (truncate(f"{TABLE}.json"), r"train\.json is not valid JSON .*download it again"),
        (remove(IMAGE), r"000019_leftImg8bit\.png does not exist; unpack all of leftImg8bit"),
        (truncate(IMAGE), r"000019_leftImg8bit\.png cannot be read .*download it again"),
        (remove(PNG), r"000019_gtFine_panoptic\.png does not exist; unpack"),
        (truncate(PNG), r"000019_gtFine_panoptic\.png cannot be read .*download it again"),
        (smaller_png, r"000019_gtFine_panoptic\.png is 32 x 16 pixels but .*is 64 x 32; both"),
        (unlisted_id, r"000019_gtFine_panoptic\.png has the id 592137 at row 0.*; take the JSON"),
        (train_ids, r"train\.json: segment 1 of aachen.*has the category id 0,.*; give"),
        (other_images, r"train\.json does not list the image aachen_000000_000019; make it anew"),
    ],
)
def test_broken_panoptic_files_are_one_sentence(
    root: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    create_panoptic_images(root, "train")
    damage(root)
    check_sentence(root, sentence, lambda: CityscapesPanoptic(root, ["train"]).read(0))
