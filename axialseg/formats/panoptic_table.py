"""A panoptic JSON file as flat arrays, before any check of its values.

COCO's training split lists 800,000 segments. As Python objects they take hundreds of megabytes, and
loader processes would copy them in time. So the segments of an image are put into arrays as soon as
they are parsed, and their objects are dropped.
"""

import math
from array import array
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.errors import UserError
from axialseg.formats.json_file import read_json
from axialseg.formats.strict_values import INT64, StrictValues, shown

UNKNOWN_BOX = array("f", (math.nan,) * 4)


class PanopticTable(NamedTuple):
    """L listed images, N annotated ones, T segments of all of them together, in the file's order.

    Attributes:
        path: the JSON file, for messages.
        categories: its `categories`, as they are; None if there are none.
        listed_ids: int64 or str ``[L]``.
        listed_files: str ``[L]``, names of the images.
        listed_sizes: int32 ``[L, 2]``, height and width; 0 where the file does not say.
        annotated: int32 ``[N]``, place in the list of each annotated image; -1: not listed.
        annotated_ids: int64 or str ``[N]``.
        png_files: str ``[N]``, names of the id PNGs.
        offsets: int64 ``[N + 1]``; image i has the segments ``offsets[i]`` to ``offsets[i + 1]``.
        segment_ids: int32 ``[T]``, ids as in the PNG.
        category_ids: int64 ``[T]``, official ids.
        is_crowd: bool ``[T]``.
        areas: float64 ``[T]``, pixels; NaN where the file does not say.
        boxes: float32 ``[T, 4]``, left, top, width and height in pixels; NaN as above.
    """

    path: Path
    categories: list[dict[str, Any]] | None
    listed_ids: NDArray[Any]
    listed_files: NDArray[np.str_]
    listed_sizes: NDArray[np.int32]
    annotated: NDArray[np.int32]
    annotated_ids: NDArray[Any]
    png_files: NDArray[np.str_]
    offsets: NDArray[np.int64]
    segment_ids: NDArray[np.int32]
    category_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    boxes: NDArray[np.float32]


def read_panoptic_table(path: str | Path) -> PanopticTable:
    """Reads a panoptic JSON file.

    Raises:
        UserError: the file is missing, no JSON or no panoptic JSON.
    """
    path = Path(path)
    segments = _Segments(path)
    try:
        return _table(path, read_json(path, segments.shorten), segments)
    except _NotPanoptic as error:
        raise not_panoptic(path, str(error)) from error


def parse_panoptic_table(path: Path, content: Any) -> PanopticTable:
    """The same of a file's content that is at hand; `path` is for messages.

    Raises:
        UserError: it is no content of a panoptic JSON file.
    """
    segments = _Segments(path)
    try:
        rows = content.get("annotations") if isinstance(content, dict) else None
        if isinstance(rows, list):
            short = [segments.shorten(row) if isinstance(row, dict) else row for row in rows]
            content = content | {"annotations": short}
        return _table(path, content, segments)
    except _NotPanoptic as error:
        raise not_panoptic(path, str(error)) from error


def not_panoptic(path: Path, reason: str) -> UserError:
    """The message for a file of another kind."""
    return UserError(
        f"{path} is not a COCO panoptic annotation file ({reason}); "
        "give a panoptic_*.json with images, annotations, segments_info and categories."
    )


class _NotPanoptic(Exception):
    """The reason why; no `ValueError`, which would say that the file is no JSON."""


class _Segments:
    """Takes the segments out of a JSON file while it is parsed."""

    def __init__(self, path: Path) -> None:
        self.values = StrictValues(path)
        self.ids = array("i")
        self.category_ids = array("q")
        self.is_crowd = array("b")
        self.areas = array("d")
        self.boxes = array("f")

    def shorten(self, row: dict[str, Any]) -> Any:
        """Stores the segments of an annotation; keys of an image that are not used are dropped."""
        if "segments_info" in row:
            image = shown(row.get("file_name", row.get("image_id"))).strip("'")
            try:
                return row | {"segments_info": self._store(row["segments_info"], image)}
            except KeyError as error:
                raise _NotPanoptic(f"{error} is missing in a segment of {image}") from error
        if "file_name" in row and "id" in row:
            return {key: row[key] for key in ("id", "file_name", "height", "width") if key in row}
        return row

    def _store(self, rows: Any, image: str) -> range:
        """Appends the segments of one image; gives their places in the arrays."""
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _NotPanoptic(f"segments_info of {image} is not a list of objects")
        first = len(self.ids)
        ids, categories = [row["id"] for row in rows], [row["category_id"] for row in rows]
        self.ids.extend(self._whole("i", ids, "id", image))
        self.category_ids.extend(self._whole("q", categories, "category_id", image))
        self.is_crowd.extend(self._flags([row.get("iscrowd", 0) for row in rows], image))
        self.areas.extend(_numbers([row.get("area", math.nan) for row in rows]))
        for row in rows:
            self.boxes.extend(_box(row.get("bbox")))
        return range(first, len(self.ids))

    def _whole(self, code: str, values: list[Any], field: str, image: str) -> array:
        """The whole numbers of an image's segments."""
        limit = 2 ** (8 * array(code).itemsize - 1)
        with suppress(TypeError, OverflowError):  # told below, where its place is known
            return array(code, values)
        places = enumerate(values, start=1)
        return array(
            code, [self.values.whole(v, field, f"segment {n} of {image}", limit) for n, v in places]
        )

    def _flags(self, values: list[Any], image: str) -> list[bool]:
        """Which of an image's segments are crowds."""
        if values.count(0) + values.count(1) == len(values):
            return values
        places = enumerate(values, start=1)
        return [self.values.flag(v, "iscrowd", f"segment {n} of {image}") for n, v in places]


def _numbers(values: list[Any]) -> array:
    """Numbers; NaN where there is something else."""
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        return array("d", map(_number, values))


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _box(sides: Any) -> array:
    """The four sides of a box; NaN if they are something else."""
    if isinstance(sides, list) and len(sides) == 4:
        with suppress(TypeError, OverflowError):
            return array("f", sides)
    return UNKNOWN_BOX


def _table(path: Path, content: Any, segments: _Segments) -> PanopticTable:
    """The arrays, from the shortened content of a file."""
    values = segments.values
    if not isinstance(content, dict):
        raise _NotPanoptic("it holds no such object; results of instances are a list")
    try:
        images, annotations = content["images"], content["annotations"]
        for name, rows in (("images", images), ("annotations", annotations)):
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise TypeError(f"{name} is not a list of objects")
        listed_ids, annotated_ids = _image_ids(
            values, [row["id"] for row in images], [row["image_id"] for row in annotations]
        )
        place: dict[int | str, int] = {}
        for number, image_id in enumerate(listed_ids):
            place.setdefault(image_id, number)
        sizes = [(_pixels(row, "height"), _pixels(row, "width")) for row in images]
        ranges: list[range] = [annotation["segments_info"] for annotation in annotations]
        order = np.fromiter(chain.from_iterable(ranges), np.int64)
        categories = content.get("categories")
        if categories is not None and (
            not isinstance(categories, list) or not all(isinstance(r, dict) for r in categories)
        ):
            raise TypeError("categories are no objects")
        return PanopticTable(
            path,
            categories,
            np.array(listed_ids, None if listed_ids else np.int64),
            _file_names(values, images, "image"),
            np.array(sizes, np.int32).reshape(-1, 2),
            np.array([place.get(image_id, -1) for image_id in annotated_ids], np.int32),
            np.array(annotated_ids, None if annotated_ids else np.int64),
            _file_names(values, annotations, "annotation"),
            np.cumsum([0, *map(len, ranges)], dtype=np.int64),
            np.array(segments.ids, np.int32)[order],
            np.array(segments.category_ids, np.int64)[order],
            np.array(segments.is_crowd, np.bool_)[order],
            np.array(segments.areas, np.float64)[order],
            np.array(segments.boxes, np.float32).reshape(-1, 4)[order],
        )
    except KeyError as error:
        raise _NotPanoptic(f"{error} is missing") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _NotPanoptic(str(error)) from error


def _image_ids(
    values: StrictValues, listed: list[Any], annotated: list[Any]
) -> tuple[list[int | str], list[int | str]]:
    """Ids of images: all numbers, or all texts; a text of a number is one if others are numbers."""
    both = (("image", "id", listed), ("annotation", "image_id", annotated))
    kinds = set(map(type, listed)) | set(map(type, annotated))
    are_texts = kinds == {str}
    take = values.text if are_texts else values.whole
    if kinds <= {int} and all(-INT64 <= n < INT64 for _, _, ids in both for n in ids):
        return listed, annotated
    first, second = (
        [take(value, field, f"{name} {n}") for n, value in enumerate(ids, start=1)]
        for name, field, ids in both
    )
    return first, second


def _file_names(values: StrictValues, rows: list[dict[str, Any]], name: str) -> NDArray[np.str_]:
    """The `file_name` of each row."""
    places = enumerate(rows, start=1)
    names = [values.file_name(row["file_name"], "file_name", f"{name} {n}") for n, row in places]
    return np.array(names, np.str_)


def _pixels(row: dict[str, Any], key: str) -> int:
    """A side of an image; 0 if it is not given."""
    value = row.get(key)
    return value if type(value) is int and 0 < value < 2**31 else 0
