"""Checks data in COCO's panoptic format: the JSON table, the images and the id PNGs."""

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.inspector import (
    Finding,
    ImageInspection,
    Pixels,
    compare_names,
    content_findings,
    inspect_photograph,
    known_segments,
    measure,
    no_truth,
)
from axialseg.datasets.paths import names_outside, outside_text
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import class_ids_of
from axialseg.formats.id_png import ID_LIMIT, check_size, read_id_png
from axialseg.formats.panoptic_table import PanopticTable
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories

BOX_TOLERANCE = 1.0  # pixels; writers differ in whether a box includes its last row and column
EXAMPLES = 3  # ids that a finding names
OUTSIDE = "file outside the data root"
# What is wrong with single images, which `data.skip_invalid=true` leaves out.
LEFT_OUT = {"missing file", "image not listed", "image listed twice", "unknown category"}
LEFT_OUT |= {"id out of range", "id listed twice"}


class SegmentRows(NamedTuple):
    """The rows of one image in a `PanopticTable`, and their classes; S segments.

    Attributes:
        ids: int32 ``[S]``.
        category_ids: int64 ``[S]``.
        class_ids: int64 ``[S]``; -1 where the category is unknown.
        is_crowd: bool ``[S]``.
        areas: float64 ``[S]``.
        boxes: float32 ``[S, 4]``.
    """

    ids: NDArray[np.int32]
    category_ids: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    boxes: NDArray[np.float32]


class CocoInspector:
    """One split of a data set in COCO panoptic format."""

    def __init__(
        self,
        root: Path,
        table: PanopticTable,
        image_folder: Path,
        panoptic_folder: Path,
        categories: Categories,
        void_categories: Collection[int] = (),
        apply_exif: bool = False,
        skip_invalid: bool = False,
    ) -> None:
        """Keeps the parts.

        Args:
            root: folder of the data set.
            table: the JSON file.
            image_folder: folder of the images.
            panoptic_folder: folder of the id PNGs.
            categories: the classes.
            void_categories: official ids of categories whose segments count as void.
            apply_exif: see `read_rgb`.
            skip_invalid: training leaves wrong images out, so they are warnings.
        """
        self.root = root
        self.table = table
        self.image_folder = image_folder
        self.panoptic_folder = panoptic_folder
        self.categories = categories
        self.void_categories = void_categories
        self.apply_exif = apply_exif
        self.skip_invalid = skip_invalid

    def __len__(self) -> int:
        """Number of annotated images."""
        return len(self.table.annotated_ids)

    @cached_property
    def _class_ids(self) -> NDArray[np.int64]:
        return class_ids_of(self.table.category_ids, self.categories, self.void_categories)

    def check_files(self) -> list[Finding]:
        """Compares the names of both folders with the JSON file."""
        table, outside = self.table, self._names_outside
        annotated = table.listed_files[table.annotated[table.annotated >= 0]].tolist()
        images = compare_names(
            self.image_folder,
            [name for name in annotated if name not in outside],
            table.listed_files.tolist(),
            f"unpack the images into {self.image_folder}",
            table.path,
        )
        leading_out = names_outside(self.root, self.image_folder, annotated)
        found = (
            *images,
            *outside_findings(table, leading_out, self.root),
            *compare_pngs(table, self.panoptic_folder, self.root),
        )
        return list(map(self._judge, found))

    def check_tables(self) -> list[Finding]:
        """Compares the lists of the JSON file with each other."""
        return list(map(self._judge, check_table(self.table)))

    def inspect(self, index: int) -> ImageInspection:
        """Reads one image and its PNG, and compares them with the JSON file."""
        table, place = self.table, int(self.table.annotated[index])
        png = file_below(self.panoptic_folder, str(table.png_files[index]))
        name = str(table.listed_files[place]) if place >= 0 else ""
        if place < 0 or self._names_outside & {name, str(table.png_files[index])}:
            return no_truth(str(png), None, [], is_complete=False)
        image = file_below(self.image_folder, name)
        rows = rows_of(table, self._class_ids, index)
        listed_size = table.listed_sizes[place]
        inspection = inspect_annotated(
            image, png, rows, table.path, listed_size, self.categories, self.apply_exif
        )
        found = inspection.findings
        if self.skip_invalid and any(one.kind in LEFT_OUT and one.is_error for one in found):
            judged = map(_as_left_out, found)  # with all else that is wrong with the image
        else:
            judged = map(self._judge, found)
        return inspection._replace(findings=tuple(judged))

    @cached_property
    def _names_outside(self) -> set[str]:
        table = self.table
        return {
            *names_outside(self.root, self.image_folder, table.listed_files.tolist()),
            *names_outside(self.root, self.panoptic_folder, table.png_files.tolist()),
        }

    def _judge(self, finding: Finding) -> Finding:
        """The finding; of an image that training leaves out, as a warning."""
        is_left_out = self.skip_invalid and finding.kind in LEFT_OUT
        return _as_left_out(finding) if is_left_out else finding

    def sample(self, index: int) -> PanopticSample:
        """One image with the segments that are known, see `Inspector.sample`."""
        table, place = self.table, int(self.table.annotated[index])
        png = file_below(self.panoptic_folder, str(table.png_files[index]))
        # Of an image that is not listed, the folder, which cannot be read.
        name = str(table.listed_files[place]) if place >= 0 else ""
        rows = rows_of(table, self._class_ids, index)
        image = file_below(self.image_folder, name)
        return annotated_sample(image, png, rows, self.categories, self.apply_exif)


def _as_left_out(finding: Finding) -> Finding:
    """An error of an image that training leaves out, as a warning."""
    if not finding.is_error:
        return finding
    text = f"{finding.text.removesuffix('.')} (left out: data.skip_invalid=true)."
    return finding._replace(is_error=False, text=text)


def compare_pngs(table: PanopticTable, folder: Path, root: Path) -> Iterator[Finding]:
    """Compares the names of the id PNGs with the JSON file."""
    outside = names_outside(root, folder, table.png_files.tolist())
    yield from outside_findings(table, outside, root)
    inside = [name for name in table.png_files.tolist() if name not in outside]
    cure = f"unpack the panoptic PNGs into {folder}"
    yield from compare_names(folder, inside, [], cure, table.path)


def outside_findings(table: PanopticTable, names: list[str], root: Path) -> Iterator[Finding]:
    """Names of a JSON file that lead out of the data set; the files are not looked at."""
    for name in names:
        yield Finding(OUTSIDE, True, name, outside_text(table.path, name, root))


def rows_of(table: PanopticTable, class_ids: NDArray[np.int64], position: int) -> SegmentRows:
    """The rows of annotated image `position`; `class_ids` int64 ``[T]`` are those of the table."""
    part = slice(table.offsets[position], table.offsets[position + 1])
    return SegmentRows(
        table.segment_ids[part],
        table.category_ids[part],
        class_ids[part],
        table.is_crowd[part],
        table.areas[part],
        table.boxes[part],
    )


def check_table(table: PanopticTable) -> Iterator[Finding]:
    """What contradicts itself in a JSON file."""
    path = str(table.path)
    if not len(table.annotated_ids):
        yield Finding(
            "no annotation", True, path, f"{path} annotates no image; give the complete file."
        )
    for position in np.flatnonzero(table.annotated < 0).tolist():
        yield Finding(
            "image not listed",
            True,
            path,
            f"{path} annotates the image {table.annotated_ids[position]} but does not list it; "
            "take the file as it was published.",
        )
    for image_id in _repeated(table.annotated_ids):
        yield Finding(
            "image listed twice",
            True,
            path,
            f"{path} annotates the image {image_id} more than once; give each image an id and one "
            "annotation of its own.",
        )
    for image_id in _repeated(table.listed_ids):
        yield Finding(
            "image listed twice",
            bool(np.isin(image_id, table.annotated_ids)),
            path,
            f"{path} lists two images of the id {image_id}; give each one of its own.",
        )
    is_annotated = np.zeros(len(table.listed_ids) + 1, bool)
    is_annotated[table.annotated] = True  # the last entry takes those that are not listed
    for place in np.flatnonzero(~is_annotated[:-1]).tolist():
        yield Finding(
            "image without annotation",
            False,
            str(table.listed_files[place]),
            f"{path} lists {table.listed_files[place]} but does not annotate it; it is not used.",
        )


def inspect_annotated(
    image: Path,
    png: Path,
    rows: SegmentRows,
    table: Path,
    listed_size: NDArray[np.int32],
    categories: Categories,
    apply_exif: bool = False,
) -> ImageInspection:
    """Reads an image and its id PNG, and compares them with the rows of a JSON file.

    Args:
        image: the image.
        png: its id PNG.
        rows: its segments.
        table: the JSON file, for messages.
        listed_size: height and width as the JSON file has them; 0 where it does not say.
        categories: the classes.
        apply_exif: see `read_rgb`.
    """
    size, findings = inspect_photograph(image, apply_exif)
    findings += _check_rows(png, rows, table)
    if size is not None and listed_size.all() and size != tuple(listed_size.tolist()):
        findings.append(
            Finding(
                "size mismatch",
                False,
                str(image),
                f"{image} is {size[1]} x {size[0]} pixels, but {table} says "
                f"{listed_size[1]} x {listed_size[0]}; the image's own size is used.",
            )
        )
    if not png.is_file():
        return no_truth(str(image), size, findings, is_complete=False)
    try:
        ids = read_id_png(png, rows.ids)
    except UserError as error:
        findings.append(Finding("corrupt file", True, str(png), str(error)))
        return no_truth(str(image), size, findings, is_complete=False)
    try:
        if size is not None:
            check_size(png, ids, image.name, size)
    except UserError as error:
        findings.append(Finding("size mismatch", True, str(png), str(error)))

    pixels = measure(ids)
    places = np.searchsorted(pixels.values, rows.ids).clip(max=len(pixels.values) - 1)
    is_drawn = pixels.values[places] == rows.ids
    areas = np.where(is_drawn, pixels.areas[places], 0)
    findings += _check_ids(png, rows, table, pixels, is_drawn)
    findings += _check_measures(png, rows, table, areas, pixels.boxes[places], is_drawn)
    is_known = (rows.class_ids >= 0) & (rows.class_ids != categories.ignore_class)
    known = rows.class_ids[is_known], areas[is_known], rows.is_crowd[is_known]
    findings += content_findings(str(image), *known, categories)
    void = ids.size - int(known[1].sum())
    is_complete = size is not None
    return ImageInspection(str(image), size, True, is_complete, *known, void, tuple(findings))


def annotated_sample(
    image: Path, png: Path, rows: SegmentRows, categories: Categories, apply_exif: bool = False
) -> PanopticSample:
    """An image with those segments of its PNG that have a row of a known class.

    Raises:
        UserError: a file is missing or damaged, or their sizes differ.
    """
    pixels, ids = read_rgb(image, apply_exif), read_id_png(png, rows.ids)
    check_size(png, ids, image.name, pixels.shape[:2])
    segments = known_segments(ids, rows.ids, rows.class_ids, rows.is_crowd, categories)
    return PanopticSample(pixels, segments, image.stem, str(image), image.name)


def _check_rows(png: Path, rows: SegmentRows, table: Path) -> Iterator[Finding]:
    """Rows that the reader refuses."""
    unknown = np.unique(rows.category_ids[rows.class_ids < 0]).tolist()
    if unknown:
        yield Finding(
            "unknown category",
            True,
            str(png),
            f"{table} has {_some(unknown, 'the category id')} for {png.name}, none of the data "
            "set's classes; give the data set that this file belongs to.",
        )
    wrong = rows.ids[(rows.ids <= 0) | (rows.ids >= ID_LIMIT)].tolist()
    if wrong:
        yield Finding(
            "id out of range",
            True,
            str(png),
            f"{table} has {_some(wrong, 'the id')} for {png.name}; give it one from 1 to "
            f"{ID_LIMIT - 1} (0 is void).",
        )
    repeated = _repeated(rows.ids)
    if repeated:
        yield Finding(
            "id listed twice",
            True,
            str(png),
            f"{table} lists {_some(repeated, 'the id')} more than once for {png.name}; give each "
            "segment of an image an id of its own.",
        )


def _check_ids(
    png: Path, rows: SegmentRows, table: Path, pixels: Pixels, is_drawn: NDArray[np.bool_]
) -> Iterator[Finding]:
    """Ids of the PNG alone, and of the JSON file alone."""
    unlisted = np.setdiff1d(pixels.values, np.append(rows.ids, 0)).tolist()
    if unlisted:
        count = int(pixels.areas[np.isin(pixels.values, unlisted)].sum())
        yield Finding(
            "id not in JSON",
            True,
            str(png),
            f"{png} has {_some(unlisted, 'the id')} on {count} pixels, which {table} does not list "
            "for this image; take the JSON and the PNGs from the same release.",
        )
    absent = rows.ids[~is_drawn].tolist()
    if absent:
        yield Finding(
            "segment without pixels",
            False,
            str(png),
            f"{png} lacks {_some(absent, 'the id')}, which {table} lists for this image.",
        )


def _check_measures(
    png: Path,
    rows: SegmentRows,
    table: Path,
    areas: NDArray[np.int64],
    boxes: NDArray[np.int64],
    is_drawn: NDArray[np.bool_],
) -> Iterator[Finding]:
    """`area` and `bbox`, where the JSON file has them and the PNG has pixels."""
    wrong = np.flatnonzero(is_drawn & (np.abs(rows.areas - areas) > 0.5))
    if wrong.size:
        first = wrong[0]
        yield Finding(
            "wrong area",
            False,
            str(png),
            f"{table} has a wrong area for {_count(wrong.size)} of {png.name}: the id "
            f"{rows.ids[first]} has {areas[first]} pixels, not {rows.areas[first]:g}.",
        )
    wrong = np.flatnonzero(is_drawn & (np.abs(rows.boxes - boxes) > BOX_TOLERANCE).any(1))
    if wrong.size:
        first = wrong[0]
        listed = ", ".join(f"{side:g}" for side in rows.boxes[first].tolist())
        yield Finding(
            "wrong bbox",
            False,
            str(png),
            f"{table} has a wrong bbox for {_count(wrong.size)} of {png.name}: the id "
            f"{rows.ids[first]} has {boxes[first].tolist()}, not [{listed}].",
        )


def _repeated(values: NDArray[np.generic]) -> list[int | str]:
    """Values that come more than once, each one time."""
    unique, counts = np.unique(values, return_counts=True)
    return unique[counts > 1].tolist()


def _some(numbers: list[int | str], name: str) -> str:
    """The first few of some ids in words."""
    shown = ", ".join(str(number) for number in numbers[:EXAMPLES])
    more = f" and {len(numbers) - EXAMPLES} more" if len(numbers) > EXAMPLES else ""
    return f"{name}{'s' * (len(numbers) > 1)} {shown}{more}"


def _count(segments: int) -> str:
    return f"{segments} segment{'s' * (segments > 1)}"
