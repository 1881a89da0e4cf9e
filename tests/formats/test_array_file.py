"""Arrays in a file: what was written, or a refusal."""

from pathlib import Path

import numpy as np
import pytest

from axialseg.formats.array_file import DamagedArrayFile, map_arrays, write_arrays

ARRAYS = {
    "flags": np.array([True, False, True]),
    "names": np.array(["a.png", "länger.png", ""]),
    "boxes": np.random.default_rng(0).random((5, 4)).astype(np.float32),
    "none": np.empty((0, 4), np.float64),
    "ids": np.arange(1000, dtype=np.int64)[::3],
    "last": np.empty(0, np.int32),
}
FACTS = {"size": 12, "names": ["ü", None], "deep": {"x": 1.5}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.arrays"
    write_arrays(path, ARRAYS, FACTS)
    return path


def test_arrays_come_back(file: Path) -> None:
    arrays, facts = map_arrays(file)
    assert facts == FACTS
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert arrays[name].dtype == values.dtype
        assert not arrays[name].flags.writeable
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_arrays_are_mapped_not_read(file: Path) -> None:
    arrays, _ = map_arrays(file)
    lines = Path("/proc/self/maps").read_text().splitlines()
    (mapping,) = [line for line in lines if line.endswith(str(file))]
    start, end = (int(part, 16) for part in mapping.split()[0].split("-"))
    address = arrays["ids"].__array_interface__["data"][0]
    assert start <= address < end


def test_replaced_file_stays_valid_for_its_readers(file: Path) -> None:
    before, _ = map_arrays(file)
    write_arrays(file, {"ids": np.zeros(2)}, {})
    np.testing.assert_array_equal(before["ids"], ARRAYS["ids"])
    assert map_arrays(file)[0]["ids"].tolist() == [0, 0]


def test_cut_files_are_refused_wherever_they_end(file: Path) -> None:
    content = file.read_bytes()
    for length in (*range(0, 80), *range(80, len(content), 97), len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedArrayFile):
            map_arrays(file)


def test_altered_files_are_refused(file: Path) -> None:
    content = file.read_bytes()
    for place in range(0, len(content), 53):
        altered = bytearray(content)
        altered[place] ^= 4
        file.write_bytes(altered)
        with pytest.raises(DamagedArrayFile):
            map_arrays(file)
    file.write_bytes(content + b"x")
    with pytest.raises(DamagedArrayFile):
        map_arrays(file)


def test_a_failed_write_leaves_the_old_file(file: Path) -> None:
    with pytest.raises(TypeError):
        write_arrays(file, ARRAYS, {"no JSON": object()})
    no_folder = file.with_name("no folder")
    no_folder.touch()
    with pytest.raises(OSError, match="no folder"):
        write_arrays(no_folder / "a.arrays", ARRAYS, FACTS)
    no_folder.unlink()
    assert map_arrays(file)[1] == FACTS
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_arrays(tmp_path / "a", {"objects": np.array([{}, None])}, {})
