"""Lists of classes for label images: JSON, CSV, CVAT's labelmap.txt, or PASCAL VOC's own."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

from axialseg.errors import UserError
from axialseg.formats.coco_annotations import spread_color
from axialseg.formats.json_file import read_json
from axialseg.formats.strict_values import StrictValues
from axialseg.formats.whole_file import read_file
from axialseg.panoptic.categories import Categories, contiguous_categories

Color = tuple[int, int, int]
VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
VALUE_COLUMNS = ("id", "value", "index", "label_id", "class_id", "trainid")
NAME_COLUMNS = ("name", "class", "label", "category")
RED, GREEN, BLUE = ("r", "red"), ("g", "green"), ("b", "blue")
COLOR_COLUMNS = ("color", "colour", "color_rgb", "rgb")
THING_COLUMNS = ("isthing", "is_thing", "thing", "hasinstances")


class ListedClass(NamedTuple):
    """One line of a list.

    Attributes:
        name: of the class.
        value: of its pixels; by default the place in the list, from 0.
        color: of its pixels; None if the list has none.
        is_thing: None if the list does not say.
    """

    name: str
    value: int
    color: Color | None
    is_thing: bool | None


def read_class_list(source: str) -> list[ListedClass]:
    """Reads a list of classes.

    Args:
        source: ``voc``, or a file: ``.json`` (a list of names or of objects, an object of value and
            name, or a file with `categories`, `labels` or `classes`), ``.csv`` with a header, or a
            ``.txt`` of one name a line, CVAT's labelmap.txt included.

    Raises:
        UserError: the file is missing or is not such a list.
    """
    if source == "voc":
        return [ListedClass(name, n, voc_color(n), None) for n, name in enumerate(VOC_NAMES)]
    path = Path(source)
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _table_rows(path)
    classes = [_listed(row, place, path) for place, row in enumerate(rows)]
    if not classes:
        raise UserError(f"{path} lists no class; give one a line.")
    for what, found in (
        ("name", [listed.name for listed in classes]),
        ("value", [listed.value for listed in classes]),
    ):
        twice = next((x for n, x in enumerate(found) if x in found[:n]), None)
        if twice is not None:
            raise UserError(f"{path} has the {what} {twice} twice; give each class its own.")
    return classes


def categories_of_list(classes: list[ListedClass], things: set[str]) -> Categories:
    """The classes as a data set has them; official ids are the values of the list, plus 1."""
    return contiguous_categories(
        (row.value + 1, row.name, row.name in things, row.color or spread_color(place))
        for place, row in enumerate(classes)
    )


def voc_color(value: int) -> Color:
    """Colour `value` of PASCAL VOC's palette."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (value >> channel & 1) << (7 - bit)
        value >>= 3
    return channels[0], channels[1], channels[2]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    if isinstance(content, dict):
        for key in ("categories", "labels", "classes"):
            if isinstance(content.get(key), list):
                content = content[key]
                break
        else:
            content = [{"id": value, "name": name} for value, name in content.items()]
    if not isinstance(content, list):
        raise UserError(
            f"{path} is not a list of classes; give names, or objects with id and name."
        )
    rows = [{"name": row} if isinstance(row, str) else row for row in content]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} is not a list of classes; give names, or objects with id and name."
        )
    return rows


def _table_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give a .json, .csv or .txt file as classes=..., or voc."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a text file.") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(lines, skipinitialspace=True)
        return [{key: _number(value) for key, value in row.items()} for row in rows]
    return [_labelmap_row(line) for line in lines]


def _labelmap_row(line: str) -> dict[str, Any]:
    """``road``, or CVAT's ``road:128,64,128::``."""
    name, _, rest = line.partition(":")
    color = rest.partition(":")[0]
    return {"name": name, "color": color} if color else {"name": name}


def _number(text: Any) -> Any:
    """A text of digits as its number; a table holds texts only."""
    is_number = isinstance(text, str) and text.strip().isdecimal()
    return int(text) if is_number else text


def _listed(row: dict[str, Any], place: int, path: Path) -> ListedClass:
    values = StrictValues(path)
    where = f"class {place + 1}"
    fields = {str(key).strip().lower(): value for key, value in row.items() if value != ""}

    def first(names: tuple[str, ...]) -> Any:
        return next((fields[name] for name in names if fields.get(name) is not None), None)

    name = first(NAME_COLUMNS)
    if name is None:
        raise UserError(f"{path}: {where} has no name; give a column `name`.")
    value, is_thing = first(VALUE_COLUMNS), first(THING_COLUMNS)
    color = first(COLOR_COLUMNS)
    channels: Any = [first(RED), first(GREEN), first(BLUE)]
    if isinstance(color, str):
        channels = [_number(part) for part in color.replace(",", " ").strip("()[] ").split()]
    elif color is not None:
        channels = color
    has_color = color is not None or channels[0] is not None
    return ListedClass(
        values.text(name, "name", where),
        place if value is None else values.whole(value, "value", where, 2**24),
        _color(channels, where, values) if has_color else None,
        None if is_thing is None else values.flag(is_thing, "isthing", where),
    )


def _color(channels: Any, where: str, values: StrictValues) -> Color:
    if isinstance(channels, list) and len(channels) == 3:
        red, green, blue = (values.whole(c, "color", where) for c in channels)
        if all(0 <= c < 256 for c in (red, green, blue)):
            return red, green, blue
    raise values.refusal(channels, "color", where, "three whole numbers from 0 to 255")
