"""Reading COCO's panoptic format: one JSON table of segments, and one PNG of ids for each image.

Source: the format page of cocodataset.org ("Panoptic Segmentation") and cocodataset/panopticapi.
The PNGs are those of `id_png.py`. Ids mean something within their image only; the order of an
image's segments is kept, because the official score depends on it.
"""

import colorsys
import logging
from collections import Counter
from collections.abc import Collection, Iterator
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
from axialseg.formats.strict_values import StrictValues
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments, SegmentRuns, run_starts

NAMED = 20  # images that a message names

SKIP_ADVICE = " data.skip_invalid=true leaves such images out."

log = logging.getLogger(__name__)


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
    advice: str = SKIP_ADVICE,
) -> CocoPanopticAnnotations:
    """The same of a file's content that is at hand, see `annotations_of`.

    Raises:
        UserError: it is no content of a panoptic JSON file, or names an unknown class.
    """
    return annotations_of(parse_panoptic_table(path, content), categories, advice=advice)


def annotations_of(
    table: PanopticTable,
    categories: Categories | None = None,
    void_categories: Collection[int] = (),
    skip_invalid: bool = False,
    advice: str = SKIP_ADVICE,
) -> CocoPanopticAnnotations:
    """What a panoptic JSON file says, if it is right.

    Args:
        table: the file.
        categories: the data set's classes; None takes those that the file lists.
        void_categories: official ids of categories whose segments count as void.
        skip_invalid: leaves out the images that something is wrong with, and tells their number.
        advice: ends the message about wrong images.

    Raises:
        UserError: it lists no classes, annotates nothing, or something is wrong with an image, see
            `image_faults`.
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
    if not len(annotations.image_ids):
        raise not_panoptic(annotations.path, "it annotates no image")
    faults = image_faults(table, class_ids)
    if not faults:
        return annotations
    if not skip_invalid:
        raise _refusal(annotations, faults, advice)
    return without_images(annotations, list(faults), next(iter(faults.values())))


def without_images(
    annotations: CocoPanopticAnnotations, positions: Collection[int], reason: str
) -> CocoPanopticAnnotations:
    """The annotations without some images, which is told with their number.

    Args:
        annotations: N images.
        positions: of the images to leave out, each in 0..N - 1.
        reason: what is wrong with the first of them.

    Raises:
        UserError: nothing would be left.
    """
    path, count = annotations.path, len(annotations.image_ids)
    is_kept = np.ones(count, bool)
    is_kept[list(positions)] = False
    left_out = np.flatnonzero(~is_kept)
    names = _some([str(annotations.png_files[position]) for position in left_out])
    told = f"{path}: {len(left_out)} of {count} images are left out ({names}): {reason}"
    if not is_kept.any():
        raise UserError(f"{told}; nothing is left to train on.")
    log.warning("%s", told)
    lengths = np.diff(annotations.offsets)
    rows = np.repeat(is_kept, lengths)
    return annotations._replace(
        image_ids=annotations.image_ids[is_kept],
        image_files=annotations.image_files[is_kept],
        png_files=annotations.png_files[is_kept],
        offsets=np.concatenate(([0], np.cumsum(lengths[is_kept]))),
        segment_ids=annotations.segment_ids[rows],
        class_ids=annotations.class_ids[rows],
        is_crowd=annotations.is_crowd[rows],
    )


def listed_categories(table: PanopticTable) -> Categories:
    """The classes that a panoptic JSON file lists.

    Raises:
        UserError: it lists none, one twice, or something else.
    """
    if table.categories is None:
        raise not_panoptic(table.path, "'categories' is missing")
    return categories_of(table.path, table.categories)


def categories_of(path: Path, rows: list[dict[str, Any]]) -> Categories:
    """The classes of a list in COCO's form.

    Args:
        path: the file that it comes from, for messages.
        rows: with ``id``, ``name``, ``isthing``, and perhaps ``color``.

    Raises:
        UserError: the list is empty, has an id twice, or a value is wrong.
    """
    values = StrictValues(path)
    if not rows:
        raise not_panoptic(path, "it lists no category")
    try:
        official = []
        for number, row in enumerate(rows):
            place = f"category {number + 1}"
            name = values.text(row["name"], "name", place)
            place += f" ({name})"
            number_in_files = values.whole(row["id"], "id", place)
            is_thing = values.flag(row["isthing"], "isthing", place)
            official.append((number_in_files, name, is_thing, _color(row, number, place, values)))
    except KeyError as error:
        raise not_panoptic(path, f"{error} is missing in {place}") from error
    if len({number for number, *_ in official}) != len(official):
        raise not_panoptic(path, "a category id is listed twice")
    return contiguous_categories(official)


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
    values = StrictValues(path)
    try:
        rows = list(enumerate(read_json(path)["images"], start=1))
        raw = [row["id"] for _, row in rows]
        take = values.text if set(map(type, raw)) == {str} else values.whole
        ids = [take(value, "id", f"image {n}") for n, value in enumerate(raw, start=1)]
        files = [values.file_name(row["file_name"], "file_name", f"image {n}") for n, row in rows]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} lists no images ({error}); give an image_info_*.json or a panoptic_*.json."
        ) from error
    if not ids:
        raise UserError(f"{path} lists no images; give the complete file.")
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id, count in Counter(ids).items() if count > 1)
        raise UserError(f"{path} lists two images of the id {twice}; give each one of its own.")
    return np.array(ids), np.array(files, np.str_)


def read_segments(
    annotations: CocoPanopticAnnotations,
    position: int,
    panoptic_folder: str | Path,
    image_size: tuple[int, int] | None = None,
) -> PanopticSegments:
    """Reads the segments of one image with their map; see `read_segment_runs`."""
    return read_segment_runs(annotations, position, panoptic_folder, image_size).paint()


def read_segment_runs(
    annotations: CocoPanopticAnnotations,
    position: int,
    panoptic_folder: str | Path,
    image_size: tuple[int, int] | None = None,
) -> SegmentRuns:
    """Reads the segments of one image, in the order of the file.

    A segment that the JSON lists but the PNG lacks keeps its row, with area 0.

    Args:
        annotations: what `read_annotations` gave.
        position: 0..N - 1.
        panoptic_folder: folder of the id PNGs.
        image_size: height and width of the image; None does not compare them.

    Raises:
        UserError: the PNG is missing or damaged, differs in size from its image, or holds an id
            that the JSON does not list.
    """
    path = file_below(Path(panoptic_folder), str(annotations.png_files[position]))
    rows = slice(annotations.offsets[position], annotations.offsets[position + 1])
    ids = read_id_png(path, annotations.segment_ids[rows])
    if image_size is not None:
        check_size(path, ids, str(annotations.image_files[position]), image_size)
    segment_ids, class_ids = annotations.segment_ids[rows], annotations.class_ids[rows]
    is_kept = class_ids != annotations.categories.ignore_class
    order = np.argsort(segment_ids)
    ascending = np.concatenate(([0], segment_ids[order]))
    numbers = np.concatenate(([0], np.where(is_kept, np.cumsum(is_kept), 0)[order])).astype(
        np.int32
    )
    starts = run_starts(ids)
    values = ids.ravel()[starts]
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    is_unlisted = ascending[places] != values
    if is_unlisted.any():
        y, x = divmod(int(starts[is_unlisted][0]), ids.shape[1])
        raise UserError(
            f"{path} has the id {ids[y, x]} at row {y}, column {x}, which {annotations.path} does "
            "not list for this image; take the JSON and the PNGs from the same release."
        )
    height, width = ids.shape
    is_crowd = annotations.is_crowd[rows][is_kept]
    return SegmentRuns((height, width), starts, numbers[places], class_ids[is_kept], is_crowd)


def class_presence(annotations: CocoPanopticAnnotations) -> NDArray[np.bool_]:
    """Which classes each image holds, bool ``[N, C]``, C = `categories.semantic_channels`."""
    count = annotations.categories.semantic_channels
    images = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.offsets))
    is_kept = annotations.class_ids != annotations.categories.ignore_class
    presence = np.zeros((len(annotations.image_ids), count), bool)
    presence[images[is_kept], annotations.class_ids[is_kept]] = True
    return presence


def image_faults(table: PanopticTable, class_ids: NDArray[np.int64]) -> dict[int, str]:
    """What is wrong with the rows of annotated images: position -> the first fault of that image.

    Args:
        table: the file.
        class_ids: int64 ``[T]``, see `class_ids_of`.
    """
    faults: dict[int, str] = {}

    def note(row: int, fault: str) -> None:
        position = int(np.searchsorted(table.offsets, row, side="right")) - 1
        number = row - int(table.offsets[position]) + 1
        faults.setdefault(position, f"segment {number} of {table.png_files[position]} {fault}")

    for position in np.flatnonzero(table.annotated < 0).tolist():
        image_id = table.annotated_ids[position]
        faults[position] = f"image {image_id} is annotated but not listed"
    for position, image_id in _of_repeated_ids(table):
        faults.setdefault(
            position,
            f"the image id {image_id} is there more than once; give each image an id and one "
            "annotation of its own",
        )
    for row in np.flatnonzero(class_ids < 0).tolist():
        note(
            row,
            f"has the category id {table.category_ids[row]}, which is none of the data set's "
            "classes; give the data set that this file belongs to",
        )
    ids = table.segment_ids
    for row in np.flatnonzero((ids <= 0) | (ids >= ID_LIMIT)).tolist():
        note(row, f"has the id {ids[row]}; give it one from 1 to {ID_LIMIT - 1} (0 is void)")
    images = np.repeat(np.arange(len(table.annotated_ids)), np.diff(table.offsets))
    order = np.lexsort((ids, images))  # stable: the earlier of two comes first
    is_same = (np.diff(ids[order]) == 0) & (np.diff(images[order]) == 0)
    for row in sorted(order[1:][is_same].tolist()):
        note(
            row,
            f"has the id {ids[row]} of an earlier segment; give each segment of an image an id of "
            "its own",
        )
    return dict(sorted(faults.items()))


def _of_repeated_ids(table: PanopticTable) -> Iterator[tuple[int, Any]]:
    """(position, image id) of annotations whose image id another image or annotation has too."""
    repeated = []
    for image_ids in (table.listed_ids, table.annotated_ids):
        unique, counts = np.unique(image_ids, return_counts=True)
        repeated += unique[counts > 1].tolist()
    if repeated:
        for position in np.flatnonzero(np.isin(table.annotated_ids, repeated)).tolist():
            yield position, table.annotated_ids[position]


def _refusal(
    annotations: CocoPanopticAnnotations, faults: dict[int, str], advice: str
) -> UserError:
    """The sentence for a file of which some images are wrong."""
    text = f"{annotations.path}: {next(iter(faults.values()))}."
    names = _some([str(annotations.png_files[position]) for position in faults])
    more = f" {len(faults)} images are wrong ({names})." if len(faults) > 1 else ""
    return UserError(f"{text}{more}{advice}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _color(
    row: dict[str, Any], number: int, place: str, values: StrictValues
) -> tuple[int, int, int]:
    """The category's colour; where the file has none, one that differs from its neighbours'."""
    color = row.get("color")
    if color is None:
        return spread_color(number)
    if isinstance(color, list) and len(color) == 3:
        red, green, blue = (values.whole(c, "color", place) for c in color)
        if all(0 <= c < 256 for c in (red, green, blue)):
            return red, green, blue
    raise values.refusal(color, "color", place, "three whole numbers from 0 to 255")


def spread_color(number: int) -> tuple[int, int, int]:
    """The colour of class `number` (from 0) of a list that has none: unlike its neighbours'."""
    hue = number * 0.618034 % 1  # the golden ratio spreads any number of hues evenly
    saturation = 0.4 + 0.2 * (number % 3)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 0.9)
    return int(255 * red), int(255 * green), int(255 * blue)
