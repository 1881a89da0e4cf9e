"""A panoptic JSON file as flat arrays, nothing judged yet.

COCO's training split lists 800,000 segments. As Python objects they take a gigabyte, which loader
processes would copy bit by bit; so each is put into arrays the moment it is parsed, and its object
forgotten.
"""

import json
import math
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.errors import UserError
from axialseg.formats.json_file import read_json


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
    segments = _Segments()
    try:
        return _table(path, read_json(path, segments.shorten), segments)
    except _NotPanoptic as error:
        raise not_panoptic(path, str(error)) from error


def parse_panoptic_table(path: Path, content: Any) -> PanopticTable:
    """The same of a file's content that is at hand; `path` is for messages.

    Raises:
        UserError: it is no content of a panoptic JSON file.
    """
    segments = _Segments()
    try:
        content = json.loads(json.dumps(content), object_hook=segments.shorten)
        return _table(path, content, segments)
    except _NotPanoptic as error:
        raise not_panoptic(path, str(error)) from error


def not_panoptic(path: Path, reason: str) -> UserError:
    """The refusal of a file that is something else."""
    return UserError(
        f"{path} is no COCO panoptic annotation file ({reason}); "
        "give a panoptic_*.json with images, annotations, segments_info and categories."
    )


class _NotPanoptic(Exception):
    """The reason why; no `ValueError`, which would say that the file is no JSON."""


class _Row(int):
    """Place of a segment in the arrays, where the segment was in the JSON."""

    __slots__ = ()


class _Segments:
    """Takes the segments out of a JSON file while it is parsed."""

    def __init__(self) -> None:
        self.ids = array("i")
        self.category_ids = array("q")
        self.is_crowd = array("b")
        self.areas = array("d")
        self.boxes = array("f")

    def shorten(self, row: dict[str, Any]) -> Any:
        """A segment is stored and becomes its number, an image loses what nobody asks for."""
        try:
            if "segments_info" in row:
                return row
            if "category_id" in row:
                return self._store(row)
        except KeyError as error:
            raise _NotPanoptic(f"{error} is missing") from error
        except (TypeError, OverflowError, ValueError) as error:
            raise _NotPanoptic(str(error)) from error
        if "file_name" in row and "id" in row:
            return {key: row[key] for key in ("id", "file_name", "height", "width") if key in row}
        return row

    def _store(self, segment: dict[str, Any]) -> _Row:
        number = len(self.ids)
        self.ids.append(_whole(segment["id"]))
        self.category_ids.append(_whole(segment["category_id"]))
        self.is_crowd.append(bool(segment.get("iscrowd", 0)))
        area, box = segment.get("area"), segment.get("bbox")
        self.areas.append(area if isinstance(area, int | float) else math.nan)
        if isinstance(box, list) and len(box) == 4:
            self.boxes.extend(side if isinstance(side, int | float) else math.nan for side in box)
        else:
            self.boxes.extend((math.nan,) * 4)
        return _Row(number)


def _whole(value: Any) -> Any:
    """A number that some tools write as 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _table(path: Path, content: Any, segments: _Segments) -> PanopticTable:
    """The arrays, from the shortened content of a file."""
    try:
        images, annotations = content["images"], content["annotations"]
        place = {row["id"]: number for number, row in enumerate(images)}
        sizes = [(_pixels(row, "height"), _pixels(row, "width")) for row in images]
        rows = [row for annotation in annotations for row in _rows_of(annotation)]
        lengths = [len(annotation["segments_info"]) for annotation in annotations]
        order = np.array(rows, np.int64)
        categories = content.get("categories")
        if not all(isinstance(row, dict) for row in categories or []):
            raise TypeError("categories are no objects")
        return PanopticTable(
            path,
            categories,
            np.array([row["id"] for row in images]),
            np.array([row["file_name"] for row in images], np.str_),
            np.array(sizes, np.int32).reshape(-1, 2),
            np.array([place.get(row["image_id"], -1) for row in annotations], np.int32),
            np.array([row["image_id"] for row in annotations]),
            np.array([row["file_name"] for row in annotations], np.str_),
            np.cumsum([0, *lengths], dtype=np.int64),
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


def _rows_of(annotation: Any) -> list[_Row]:
    """Numbers of an annotation's segments."""
    if isinstance(annotation, _Row):  # an instance annotation: it has a category itself
        raise KeyError("segments_info")
    rows: list[Any] = annotation["segments_info"]
    for row in rows:
        if not isinstance(row, _Row):
            raise KeyError("category_id")
    return rows


def _pixels(row: dict[str, Any], key: str) -> int:
    """A side of an image; 0 if it is not given."""
    value = row.get(key)
    return value if isinstance(value, int) and 0 < value < 2**31 else 0
