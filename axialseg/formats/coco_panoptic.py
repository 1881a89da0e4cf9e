"""COCO's panoptic format: one JSON table of segments, and one PNG of ids for each image.

Source: the format page of cocodataset.org ("Panoptic Segmentation") and cocodataset/panopticapi.
The PNGs are those of `id_png.py`. Ids mean something within their image only; the order of an
image's segments is kept, because the official score depends on it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from axialseg.errors import UserError
from axialseg.formats.id_png import ID_LIMIT, read_id_png, rgb_from_ids
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments, runs, segments_from_panoptic_map


class CocoPanopticAnnotations(NamedTuple):
    """A panoptic JSON file as flat arrays: N annotated images, T segments of all images together.

    COCO's training split has 800,000 segments; arrays hold them in 11 MB and are shared, not
    copied, with loader processes.

    Attributes:
        path: the JSON file, for messages.
        categories: the classes, see `read_annotations`.
        image_ids: int64 or str ``[N]``, in the order of the file's annotations.
        image_files: str ``[N]``, name of the image.
        png_files: str ``[N]``, name of the id PNG.
        offsets: int64 ``[N + 1]``; image i has the segments ``offsets[i]`` to ``offsets[i + 1]``.
        segment_ids: int32 ``[T]``, ids as in the PNG.
        class_ids: int64 ``[T]``, contiguous class ids.
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
    path = Path(path)
    content = _load_json(path)
    try:
        if categories is None:
            categories = _categories(content["categories"])
        names = {row["id"]: row["file_name"] for row in content["images"]}
        rows = content["annotations"]
        segments = [segment for row in rows for segment in row["segments_info"]]
        official = np.array([segment["category_id"] for segment in segments], np.int64)
        annotations = CocoPanopticAnnotations(
            path,
            categories,
            np.array([row["image_id"] for row in rows]),
            np.array([names.get(row["image_id"], "") for row in rows], np.str_),
            np.array([row["file_name"] for row in rows], np.str_),
            np.cumsum([0, *(len(row["segments_info"]) for row in rows)], dtype=np.int64),
            np.array([segment["id"] for segment in segments], np.int32),
            _class_ids(official, categories),
            np.array([segment.get("iscrowd", 0) for segment in segments], np.bool_),
        )
    except KeyError as error:
        raise _not_panoptic(path, f"{error} is missing") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _not_panoptic(path, str(error)) from error
    _check_images(annotations)
    _check_segments(annotations, official)
    return annotations


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
    if ids.shape != tuple(image_size):
        raise UserError(
            f"{path} is {ids.shape[1]} x {ids.shape[0]} pixels but its image "
            f"{annotations.image_files[position]} is {image_size[1]} x {image_size[0]}; "
            "both must come from the same version of the data set."
        )
    rows = slice(annotations.offsets[position], annotations.offsets[position + 1])
    segment_ids = annotations.segment_ids[rows]
    order = np.argsort(segment_ids)
    ascending = np.concatenate(([0], segment_ids[order]))
    numbers = np.concatenate(([0], order + 1)).astype(np.int32)
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
    return PanopticSegments(id_map, annotations.class_ids[rows], annotations.is_crowd[rows])


class CocoPanopticWriter:
    """Writes predictions as the official scorer and its server take them.

    `<folder>/predictions.json` and `<folder>/predictions/*.png`, with official category ids. All
    is written aside and put in place by `close`, so that a run that breaks off leaves an earlier
    result as it was. In a `with` statement it closes itself, unless an error occurs.

    Args:
        folder: made if it does not exist.
        categories: the classes of the predictions.

    Raises:
        UserError: the folder can not be written.
    """

    def __init__(self, folder: str | Path, categories: Categories) -> None:
        self._folder = Path(folder)
        self._categories = categories
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._names: set[str] = set()
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._draft = Path(tempfile.mkdtemp(prefix=".predictions-", dir=self._folder))
            (self._draft / "predictions").mkdir()

    def write(
        self, panoptic_map: NDArray[np.integer], image_id: int | str, file_name: str | Path
    ) -> None:
        """Adds one image.

        Args:
            panoptic_map: ``[H, W]``, class * 65536 + instance, at the image's original size.
            image_id: as in the annotation file.
            file_name: the image's; its stem names the PNG.

        Raises:
            UserError: the file can not be written.
        """
        file_name = Path(file_name)
        segments = segments_from_panoptic_map(panoptic_map, self._categories.ignore_class)
        ids = color_like_ids(segments.class_ids, self._categories)
        name = self._free_name(file_name.stem)
        pixels = rgb_from_ids(np.array([0, *ids]))[segments.id_map]
        with _writing(self._folder):
            Image.fromarray(pixels).save(self._draft / "predictions" / name, compress_level=3)
        image_id = image_id if isinstance(image_id, str) else int(image_id)
        height, width = panoptic_map.shape
        self._images.append(
            {"id": image_id, "file_name": file_name.name, "height": height, "width": width}
        )
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": name,
                "segments_info": segments_info(segments, ids, self._categories),
            }
        )

    def close(self) -> Path:
        """Puts the result in place of an earlier one; returns the JSON file."""
        table, pngs = self._folder / "predictions.json", self._folder / "predictions"
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": official_categories(self._categories),
        }
        with _writing(self._folder):
            (self._draft / table.name).write_text(json.dumps(content))
            # The JSON goes first and comes last: where it is, the PNGs are those that it lists.
            table.unlink(missing_ok=True)
            if pngs.exists():
                pngs.rename(self._draft / "earlier")
            (self._draft / pngs.name).rename(pngs)
            os.replace(self._draft / table.name, table)
        self.discard()
        return table

    def discard(self) -> None:
        """Throws away what was written since the start."""
        shutil.rmtree(self._draft, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _free_name(self, stem: str) -> str:
        """A PNG name not used yet; images of several folders may share their stem."""
        name, number = f"{stem}.png", 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}.png"
        self._names.add(name)
        return name


def color_like_ids(class_ids: NDArray[np.int64], categories: Categories) -> list[int]:
    """One id per segment, unique, never 0, and as a colour near that of its class."""
    ids: dict[int, None] = {}
    for class_id in class_ids.tolist():
        red, green, blue = categories.by_class_id[class_id].color
        number = red + 256 * green + 65536 * blue
        while number == 0 or number in ids:
            number = (number + 0x0A0A0A) % ID_LIMIT  # each channel a little brighter
        ids[number] = None
    return list(ids)


def segments_info(
    segments: PanopticSegments, ids: list[int], categories: Categories
) -> list[dict[str, Any]]:
    """The official table of one image: id, category_id, iscrowd, bbox (x, y, w, h), area.

    Args:
        segments: every row has pixels.
        ids: id of each row in the PNG.
        categories: gives the official category ids.
    """
    boxes = ndimage.find_objects(segments.id_map)
    columns = zip(
        ids,
        segments.class_ids.tolist(),
        segments.is_crowd.tolist(),
        boxes,
        segments.areas().tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "category_id": categories.by_class_id[class_id].official_id,
            "iscrowd": int(is_crowd),
            "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
            "area": area,
        }
        for number, class_id, is_crowd, (y, x), area in columns
    ]


def official_categories(categories: Categories) -> list[dict[str, Any]]:
    """The `categories` list of a panoptic JSON file."""
    return [
        {
            "id": category.official_id,
            "name": category.name,
            "supercategory": "thing" if category.is_thing else "stuff",
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in categories.classes
    ]


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; point data.root at the folder that holds the annotations."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} can not be read ({error.strerror}); give a file that you may read."
        ) from error


def _categories(rows: list[dict[str, Any]]) -> Categories:
    """The classes that a panoptic JSON file lists."""
    if not rows:
        raise ValueError("it lists no category")
    if len({row["id"] for row in rows}) != len(rows):
        raise ValueError("a category id is listed twice")
    return contiguous_categories(
        (row["id"], row["name"], bool(row["isthing"]), tuple(row["color"])) for row in rows
    )


def _not_panoptic(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is no COCO panoptic annotation file ({reason}); "
        "give a panoptic_*.json with images, annotations, segments_info and categories."
    )


def _class_ids(official: NDArray[np.int64], categories: Categories) -> NDArray[np.int64]:
    """Contiguous class ids of official category ids; -1 where a category is unknown."""
    classes = sorted(categories.classes, key=lambda category: category.official_id)
    known = np.array([category.official_id for category in classes])
    places = np.searchsorted(known, official).clip(max=len(known) - 1)
    class_ids = np.array([category.class_id for category in classes], np.int64)[places]
    class_ids[known[places] != official] = -1
    return class_ids


def _check_images(annotations: CocoPanopticAnnotations) -> None:
    """Refuses a file that annotates nothing, or an image that it does not list."""
    if not len(annotations.image_ids):
        raise _not_panoptic(annotations.path, "it annotates no image")
    unlisted = np.flatnonzero(annotations.image_files == "")
    if unlisted.size:
        image_id = annotations.image_ids[unlisted[0]]
        raise _not_panoptic(annotations.path, f"image {image_id} is annotated but not listed")


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


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} can not be written ({error.strerror}); free space there or give another "
            "folder."
        ) from error
