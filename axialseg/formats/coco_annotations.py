"""Reading COCO's panoptic format: one JSON table of segments, and one PNG of ids for each image.

Source: the format page of cocodataset.org ("Panoptic Segmentation") and cocodataset/panopticapi.
The PNGs are those of `id_png.py`. Ids mean something within their image only; the order of an
image's segments is kept, because the official score depends on it.
"""

import colorsys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.errors import UserError
from axialseg.formats.id_png import ID_LIMIT, check_size, read_id_png
from axialseg.formats.json_file import read_json
from axialseg.formats.panoptic_table import (
    PanopticTable,
    not_panoptic,
    parse_panoptic_table,
    read_panoptic_table,
)
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments, runs


class CocoPanopticAnnotations(NamedTuple):
    """A panoptic JSON file, checked: N annotated images, T segments of all images together.

    Attributes:
        path: the JSON file, for messages.
        categories: the classes, see `read_annotations`.
        image_ids: int64 or str ``[N]``, in the order of the file's annotations.
        image_files: str ``[N]``, name of the image.
        png_files: str ``[N]``, name of the id PNG.
        offsets: int64 ``[N + 1]``; image i has the segments ``offsets[i]`` to ``offsets[i + 1]``.
        segment_ids: int32 ``[T]``, ids as in the PNG.
        class_ids: int64 ``[T]``, contiguous class ids; the ignore class where a segment is void.
        is_crowd: bool ``[T]``.
    """

    path: Path
    categories: Categories
    image_ids: NDArray[Any]
    image_files: NDArray[np.str_]
    png_files: NDArray[np.str_]
    offsets: NDArray[np.int64]
    segment_ids: NDArray[np.int32]
    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]


def read_annotations(
    path: str | Path, categories: Categories | None = None
) -> CocoPanopticAnnotations:
    """Reads a panoptic JSON file. Images that have no annotation are left out.

    Args:
        path: the JSON file.
        categories: the data set's classes; None takes those that the file lists, see
            `contiguous_categories`.

    Raises:
        UserError: the file is missing, no JSON, no panoptic JSON, or names an unknown class.
    """
    return annotations_of(read_panoptic_table(path), categories)


def parse_annotations(
    path: Path,
    content: Any,
    categories: Categories | None = None,
    void_categories: Collection[int] = (),
) -> CocoPanopticAnnotations:
    """The same of a file's content that is at hand, see `annotations_of`.

    Raises:
        UserError: it is no content of a panoptic JSON file, or names an unknown class.
    """
    return annotations_of(parse_panoptic_table(path, content), categories, void_categories)


def annotations_of(
    table: PanopticTable,
    categories: Categories | None = None,
    void_categories: Collection[int] = (),
) -> CocoPanopticAnnotations:
    """What a panoptic JSON file says, if it is right.

    Args:
        table: the file.
        categories: the data set's classes; None takes those that the file lists.
        void_categories: official ids of categories whose segments count as void.

    Raises:
        UserError: it lists no classes, annotates nothing, or names an unknown class.
    """
    if categories is None:
        categories = listed_categories(table)
    class_ids = class_ids_of(table.category_ids, categories, void_categories)
    annotations = CocoPanopticAnnotations(
        table.path,
        categories,
        table.annotated_ids,
        # Of an image that is not listed, an empty name.
        np.append(table.listed_files, "")[table.annotated],
        table.png_files,
        table.offsets,
        table.segment_ids,
        class_ids,
        table.is_crowd,
    )
    _check_images(annotations)
    _check_segments(annotations, table.category_ids)
    return annotations


def listed_categories(table: PanopticTable) -> Categories:
    """The classes that a panoptic JSON file lists.

    Raises:
        UserError: it lists none, one twice, or something else.
    """
    try:
        if table.categories is None:
            raise KeyError("categories")
        return _categories(table.categories)
    except KeyError as error:
        raise not_panoptic(table.path, f"{error} is missing") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise not_panoptic(table.path, str(error)) from error


def class_ids_of(
    category_ids: NDArray[np.int64],
    categories: Categories,
    void_categories: Collection[int] = (),
) -> NDArray[np.int64]:
    """Contiguous class ids of official category ids.

    Args:
        category_ids: int64 ``[T]``.
        categories: the classes.
        void_categories: official ids that stand for the ignore class.

    Returns:
        int64 ``[T]``; -1 where a category is unknown.
    """
    classes = sorted(categories.classes, key=lambda category: category.official_id)
    known = np.array([category.official_id for category in classes])
    places = np.searchsorted(known, category_ids).clip(max=len(known) - 1)
    class_ids = np.array([category.class_id for category in classes], np.int64)[places]
    class_ids[known[places] != category_ids] = -1
    class_ids[np.isin(category_ids, list(void_categories))] = categories.ignore_class
    return class_ids


def read_image_list(path: str | Path) -> tuple[NDArray[Any], NDArray[np.str_]]:
    """Reads which images a JSON file lists, such as those of the test sets (`image_info_*.json`).

    Returns:
        Ids, int64 or str ``[N]``, and file names ``[N]``, in the file's order.

    Raises:
        UserError: the file is missing, no JSON, or lists no images.
    """
    path = Path(path)
    try:
        rows = read_json(path)["images"]
        ids, files = [row["id"] for row in rows], [row["file_name"] for row in rows]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} lists no images ({error}); give an image_info_*.json or a panoptic_*.json."
        ) from error
    if not ids:
        raise UserError(f"{path} lists no images; give the complete file.")
    return np.array(ids), np.array(files, np.str_)


def read_segments(
    annotations: CocoPanopticAnnotations,
    position: int,
    panoptic_folder: str | Path,
    image_size: tuple[int, int],
) -> PanopticSegments:
    """Reads the segments of one image, in the order of the file.

    A segment that the JSON lists but the PNG lacks keeps its row, with area 0.

    Args:
        annotations: what `read_annotations` gave.
        position: 0..N - 1.
        panoptic_folder: folder of the id PNGs.
        image_size: height and width of the image.

    Raises:
        UserError: the PNG is missing or damaged, differs in size from its image, or holds an id
            that the JSON does not list.
    """
    path = Path(panoptic_folder) / str(annotations.png_files[position])
    ids = read_id_png(path)
    check_size(path, ids, str(annotations.image_files[position]), image_size)
    rows = slice(annotations.offsets[position], annotations.offsets[position + 1])
    segment_ids, class_ids = annotations.segment_ids[rows], annotations.class_ids[rows]
    is_kept = class_ids != annotations.categories.ignore_class
    order = np.argsort(segment_ids)
    ascending = np.concatenate(([0], segment_ids[order]))
    numbers = np.concatenate(([0], np.where(is_kept, np.cumsum(is_kept), 0)[order])).astype(
        np.int32
    )
    starts, lengths = runs(ids)
    values = ids.ravel()[starts]
    places = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    unlisted = starts[ascending[places] != values]
    if unlisted.size:
        y, x = divmod(int(unlisted[0]), ids.shape[1])
        raise UserError(
            f"{path} has the id {ids[y, x]} at row {y}, column {x}, which {annotations.path} does "
            "not list for this image; take the JSON and the PNGs from the same release."
        )
    id_map = np.repeat(numbers[places], lengths).reshape(ids.shape)
    return PanopticSegments(id_map, class_ids[is_kept], annotations.is_crowd[rows][is_kept])


def class_presence(annotations: CocoPanopticAnnotations) -> NDArray[np.bool_]:
    """Which classes each image holds, bool ``[N, C]``, C = `categories.semantic_channels`."""
    count = annotations.categories.semantic_channels
    images = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.offsets))
    is_kept = annotations.class_ids != annotations.categories.ignore_class
    presence = np.zeros((len(annotations.image_ids), count), bool)
    presence[images[is_kept], annotations.class_ids[is_kept]] = True
    return presence


def _categories(rows: list[dict[str, Any]]) -> Categories:
    """The classes that a panoptic JSON file lists."""
    if not rows:
        raise ValueError("it lists no category")
    if len({row["id"] for row in rows}) != len(rows):
        raise ValueError("a category id is listed twice")
    return contiguous_categories(
        (row["id"], row["name"], bool(row["isthing"]), _color(row, number))
        for number, row in enumerate(rows)
    )


def _color(row: dict[str, Any], number: int) -> tuple[int, int, int]:
    """The category's colour; where the file has none, one that differs from its neighbours'."""
    if "color" in row:
        red, green, blue = row["color"]
    else:
        hue = number * 0.618034 % 1  # the golden ratio spreads any number of hues evenly
        saturation = 0.4 + 0.2 * (number % 3)
        red, green, blue = (255 * c for c in colorsys.hsv_to_rgb(hue, saturation, 0.9))
    return int(red), int(green), int(blue)


def _check_images(annotations: CocoPanopticAnnotations) -> None:
    """Refuses a file that annotates nothing, or an image that it does not list."""
    if not len(annotations.image_ids):
        raise not_panoptic(annotations.path, "it annotates no image")
    unlisted = np.flatnonzero(annotations.image_files == "")
    if unlisted.size:
        image_id = annotations.image_ids[unlisted[0]]
        raise not_panoptic(annotations.path, f"image {image_id} is annotated but not listed")


def _check_segments(annotations: CocoPanopticAnnotations, official: NDArray[np.int64]) -> None:
    """Refuses unknown categories, ids that no PNG can hold, and an id listed twice for an image."""
    unknown = np.flatnonzero(annotations.class_ids < 0)
    if unknown.size:
        raise UserError(
            f"{_place(annotations, unknown[0])} has the category id {official[unknown[0]]}, which "
            "is none of the data set's classes; give the data set that this file belongs to."
        )
    ids = annotations.segment_ids
    wrong = np.flatnonzero((ids <= 0) | (ids >= ID_LIMIT))
    if wrong.size:
        raise UserError(
            f"{_place(annotations, wrong[0])} has the id {ids[wrong[0]]}; give it one from 1 to "
            f"{ID_LIMIT - 1} (0 is void)."
        )
    images = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.offsets))
    keys = images * ID_LIMIT + ids
    ascending = np.sort(keys)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if repeated.size:
        first, second = np.flatnonzero(keys == repeated[0])[:2]
        raise UserError(
            f"{_place(annotations, second)} has the id {ids[first]} of an earlier segment; "
            "give each segment of an image an id of its own."
        )


def _place(annotations: CocoPanopticAnnotations, row: int) -> str:
    """Names segment `row` of the whole file for a message."""
    image = int(np.searchsorted(annotations.offsets, row, side="right")) - 1
    number = row - int(annotations.offsets[image]) + 1
    return f"{annotations.path}: segment {number} of {annotations.png_files[image]}"
