"""The cached index of a panoptic JSON file: used while it holds, made anew when it does not."""

import json
import logging
import os
import pickle
import stat
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from axialseg.datasets import annotation_index
from axialseg.datasets.annotation_index import index_file, indexed_table
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.errors import UserError
from axialseg.formats.panoptic_table import PanopticTable, read_panoptic_table

JSON = "annotations/panoptic_train2017.json"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AXIALSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "annotations"


@pytest.fixture
def path(tmp_path: Path, cache: Path) -> Path:
    """A panoptic JSON file that was written a while ago."""
    shapes_panoptic(tmp_path / "shapes", "train", train_images=6, val_images=2)
    settle(tmp_path / "shapes" / JSON)
    return tmp_path / "shapes" / JSON


def settle(path: Path, seconds: float = 60.0) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def is_mapped(table: PanopticTable) -> bool:
    return not table.segment_ids.flags.owndata and not table.segment_ids.flags.writeable


def assert_same(one: PanopticTable, other: PanopticTable) -> None:
    assert one.categories == other.categories
    for a, b in zip(one[2:], other[2:], strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are parsed, as they are."""
    parsed: list[Path] = []

    def read(path: Path) -> PanopticTable:
        parsed.append(path)
        return read_panoptic_table(path)

    monkeypatch.setattr(annotation_index, "read_panoptic_table", read)
    return parsed


def test_second_start_parses_nothing(path: Path, parses: list[Path]) -> None:
    first, second = indexed_table(path), indexed_table(path)
    assert parses == [path]
    assert is_mapped(first)
    assert is_mapped(second)
    for table in (first, second):
        assert_same(table, read_panoptic_table(path))
        assert table.path == path


def test_nothing_is_written_beside_the_data(path: Path, cache: Path) -> None:
    root = path.parents[1]
    before = sorted(root.rglob("*"))
    folders = [root, *(p for p in before if p.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert is_mapped(indexed_table(path))
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert sorted(root.rglob("*")) == before
    assert index_file(path).parent == cache
    assert index_file(path).is_file()


def test_data_sets_of_the_same_name_have_indices_of_their_own(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.root" / JSON
    other.parent.mkdir(parents=True)
    content = json.loads(path.read_text())
    content["annotations"].reverse()
    other.write_text(json.dumps(content))
    settle(other)
    one, two = indexed_table(path), indexed_table(other)
    assert one.png_files.tolist() == two.png_files.tolist()[::-1]
    assert indexed_table(path).png_files.tolist() == one.png_files.tolist()


@pytest.mark.parametrize("change", ["size", "time"])
def test_changed_files_are_parsed_again(path: Path, parses: list[Path], change: str) -> None:
    indexed_table(path)
    text = path.read_text()
    if change == "size":
        status = path.stat()
        path.write_text(text + " ")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        path.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1'))
        settle(path, 30)
    table = indexed_table(path)
    assert len(parses) == 2
    assert table.is_crowd.all() == (change == "time")
    indexed_table(path)
    assert len(parses) == 2


def test_files_just_written_are_not_kept(path: Path, cache: Path) -> None:
    # Within the tick of the file system's clock another change would have the same time.
    settle(path, 0)
    assert not indexed_table(path).is_crowd.all()
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    assert indexed_table(path).is_crowd.all()
    assert not index_file(path).exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "another format", "folder"])
def test_damaged_indices_are_made_anew_with_one_line(
    path: Path, parses: list[Path], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    expected = read_panoptic_table(path)
    indexed_table(path)
    index = index_file(path)
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "folder":
        index.unlink()
        index.mkdir()
    else:
        damaged = {
            "truncated": content[: len(content) // 2],
            "altered": content,
            "empty": b"",
            "another format": b"x" * 5000,
        }
        index.write_bytes(damaged[damage])
    with caplog.at_level(logging.INFO):
        assert_same(indexed_table(path), expected)
    lines = [r.getMessage() for r in caplog.records if "making it anew" in r.getMessage()]
    assert len(lines) == 1
    assert str(index) in lines[0]
    if damage != "folder":
        caplog.clear()
        assert is_mapped(indexed_table(path))
        assert len(parses) == 2
        assert caplog.records == []


def test_cache_that_can_not_be_written(
    path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO):
        assert_same(indexed_table(path), read_panoptic_table(path))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot be written" in line
    assert str(path) in line


def test_broken_json_leaves_no_index(path: Path) -> None:
    path.write_text(path.read_text()[:500])
    settle(path)
    with pytest.raises(UserError, match=r"train2017\.json is not valid JSON"):
        indexed_table(path)
    assert not index_file(path).exists()
    with pytest.raises(UserError, match=r"no\.json does not exist"):
        indexed_table(path.with_name("no.json"))


def open_and_count(path: Path) -> tuple[int, int]:
    """In another process: segments, and how often the file was parsed."""
    parsed = 0

    def read(path: Path) -> PanopticTable:
        nonlocal parsed
        parsed += 1
        time.sleep(0.3)
        return read_panoptic_table(path)

    annotation_index.read_panoptic_table = read
    return len(indexed_table(path).segment_ids), parsed


def test_processes_that_start_together_parse_once(path: Path, cache: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        results = list(pool.map(open_and_count, [path] * 4))
    count = len(read_panoptic_table(path).segment_ids)
    assert [segments for segments, _ in results] == [count] * 4
    assert sum(parsed for _, parsed in results) == 1
    assert {file.suffix for file in cache.iterdir()} == {".index", ".lock"}


def test_spawned_workers_get_no_copy(path: Path) -> None:
    root = path.parents[1]
    folders = {"image_folder": "train2017", "panoptic_folder": "annotations/panoptic_train2017"}
    dataset = CocoPanoptic(root, annotation_file=JSON, **folders)
    sample = dataset.read(3)
    sent = pickle.dumps(dataset)
    assert len(sent) < 2000
    copy = pickle.loads(sent)
    assert len(copy) == len(dataset)
    np.testing.assert_array_equal(copy.read(3).segments.id_map, sample.segments.id_map)
    np.testing.assert_array_equal(copy.read(3).image, sample.image)
