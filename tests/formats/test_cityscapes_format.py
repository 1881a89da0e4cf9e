"""Every label of Cityscapes, alone and as an instance, by the official rule."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.cityscapes import read_instance_ids, runs_from_instance_ids

# helpers/labels.py: ids with ignoreInEval, and ids with hasInstances.
IGNORED = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}
THINGS = {24, 25, 26, 27, 28, 29, 30, 31, 32, 33}
TRAIN_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.mark.parametrize("label_id", range(34))
def test_label(label_id: int) -> None:
    ids = np.array([[label_id, label_id * 1000 + 7]], np.int32)
    if label_id == 0:
        ids[0, 1] = 0
    segments = runs_from_instance_ids(ids, Path("a.png")).paint()
    if label_id in IGNORED:
        assert not segments.id_map.any()
        assert len(segments.class_ids) == 0
        return
    assert segments.id_map.tolist() == [[1, 2]]
    assert segments.class_ids.tolist() == [TRAIN_IDS.index(label_id)] * 2
    assert segments.is_crowd.tolist() == [label_id in THINGS, False]
    assert [array.dtype for array in segments] == [np.int32, np.int64, bool]


@pytest.mark.parametrize("value", [-1, 34, 255, 999, 34000, 65535])
def test_values_of_no_label(value: int) -> None:
    ids = np.full((3, 4), 26001, np.int32)
    ids[2, 1:] = value
    with pytest.raises(UserError, match=rf"a\.png has the id {value} at row 2, column 1, which is"):
        runs_from_instance_ids(ids, Path("a.png"))


def test_sixteen_bits_are_read_in_full(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 256], [24000, 33999, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "a.png")
    result = read_instance_ids(tmp_path / "a.png")
    assert result.dtype == np.int32
    assert result.tolist() == ids.tolist()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_other_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"its pixels are {mode}, not 16-bit grey\); unpack"):
        read_instance_ids(tmp_path / "a.png")
