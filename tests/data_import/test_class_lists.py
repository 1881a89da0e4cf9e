"""Class lists in the forms that tools write."""

import json
from pathlib import Path

import pytest

from axialseg.data_import.class_lists import ListedClass, read_class_list
from axialseg.errors import UserError

ROAD, CAR = (128, 64, 128), (0, 0, 142)


def test_voc() -> None:
    classes = read_class_list("voc")
    assert len(classes) == 21
    assert classes[0] == ListedClass("background", 0, (0, 0, 0), None)
    assert classes[15] == ListedClass("person", 15, (192, 128, 128), None)
    assert classes[20].color == (0, 64, 128)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '["road", "car"]', [("road", 0, None, None), ("car", 1, None, None)]),
        (
            "a.json",
            '{"7": "road", "26": "car"}',
            [("road", 7, None, None), ("car", 26, None, None)],
        ),
        (
            "a.json",
            json.dumps({"categories": [{"id": 7, "name": "road", "isthing": 0, "color": ROAD}]}),
            [("road", 7, ROAD, False)],
        ),
        ("a.csv", "name,r,g,b\nroad,128,64,128\ncar,0,0,142\n", [("road", 0, ROAD, None)]),
        ("a.csv", "id,name,isthing\n3, road,0\n9,car,true\n", [("road", 3, None, False)]),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\n",
            [("road", 0, ROAD, None), ("car", 1, CAR, None)],
        ),
        ("a.txt", "road\ncar\n", [("road", 0, None, None), ("car", 1, None, None)]),
    ],
)
def test_forms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, expected: list
) -> None:
    (tmp_path / name).write_text(text)
    classes = [tuple(row) for row in read_class_list(str(tmp_path / name))]
    assert classes[: len(expected)] == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "7", "is not a list of classes"),
        ("a.json", "[7]", "is not a list of classes"),
        ("a.json", "[]", "lists no class"),
        ("a.csv", "id,r\n1,2\n", "class 1 has no name"),
        ("a.txt", "road\nroad\n", "has the name road twice"),
        ("a.csv", "id,name\n1,a\n1,b\n", "has the value 1 twice"),
        ("a.csv", "name,r,g,b\na,1,2,300\n", "class 1 has the color .*; give three whole numbers"),
        ("a.csv", "id,name\nx,a\n", "class 1 has the value 'x'; give a whole number"),
    ],
)
def test_refusals(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(str(tmp_path / name))
    with pytest.raises(UserError, match="does not exist"):
        read_class_list(str(tmp_path / "none.txt"))
