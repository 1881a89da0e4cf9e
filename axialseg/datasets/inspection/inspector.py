"""What can be wrong with a data set's files, found without stopping at the first mistake.

An `Inspector` is to the data set doctor what a reader is to training. The names of all files are
compared at the start of a training too; there the first error is raised, in the same words.
"""

import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.decoder_messages import decoder_messages
from axialseg.datasets.image_file import UPRIGHT, exif_orientation, read_rgb
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.formats.whole_file import file_below
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, row_runs, runs

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Findings of `content_findings`.
EMPTY, INSTANCES = CONTENT_KINDS = ("empty image", "stuff with instances")
MUCH_VOID = 0.5  # share of the pixels
UNSEEN_NAMED = 8
CHECK_COMMAND = "python -m axialseg check-data"


class Finding(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        kind: short name, the same for all findings alike.
        is_error: training would fail at it; else a warning.
        file: the file that it is about.
        text: one sentence that names the file and, of an error, the cure.
    """

    kind: str
    is_error: bool
    file: str
    text: str


class ImageInspection(NamedTuple):
    """All about one image; S segments that have a known class.

    Attributes:
        file_name: path of the image.
        size: height and width; None if the image cannot be read.
        has_truth: whether its ground truth could be read.
        is_complete: whether all its files could be read; some data sets have no ground truth.
        class_ids: int64 ``[S]``.
        areas: int64 ``[S]``, pixels.
        is_crowd: bool ``[S]``.
        void: pixels of no segment with a known class.
        findings: what is wrong.
    """

    file_name: str
    size: tuple[int, int] | None
    has_truth: bool
    is_complete: bool
    class_ids: NDArray[np.int64]
    areas: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    void: int
    findings: tuple[Finding, ...]


class Inspector(Protocol):
    """Goes through the files of a data set; its checks report and do not raise."""

    categories: Categories

    def __len__(self) -> int:
        """Number of images."""
        ...

    def check_files(self) -> list[Finding]:
        """Missing and extra files, by their names alone: seconds for any data set."""
        ...

    def check_tables(self) -> list[Finding]:
        """What the annotation files say about themselves."""
        ...

    def inspect(self, index: int) -> ImageInspection:
        """Reads image `index` and its ground truth; missing files are left to `check_files`."""
        ...

    def sample(self, index: int) -> PanopticSample:
        """Image `index` with what is known of its segments, also where a reader would refuse it.

        Raises:
            UserError: a file is missing or damaged, or their sizes differ.
        """
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A data set whose files can be checked."""

    def inspector(self) -> Inspector:
        """What checks them.

        Raises:
            UserError: an annotation file cannot be read at all.
        """
        ...


class Pixels(NamedTuple):
    """The values of an id map ``[H, W]``, K of them, ascending.

    Attributes:
        values: int ``[K]``.
        areas: int64 ``[K]``, pixels.
        boxes: int64 ``[K, 4]``, left, top, width, height.
    """

    values: NDArray[np.integer]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]


def measure(id_map: NDArray[np.integer]) -> Pixels:
    """Area and box of each value of a map ``[H, W]``."""
    width = id_map.shape[1]
    starts, lengths = row_runs(id_map)
    values, inverse = np.unique(id_map.ravel()[starts], return_inverse=True)
    rows, left = np.divmod(starts, width)
    order = np.argsort(inverse, kind="stable")
    first = np.searchsorted(inverse[order], np.arange(len(values)))
    areas = np.add.reduceat(lengths[order], first)
    x, y = np.minimum.reduceat(left[order], first), rows[order][first]
    right = np.maximum.reduceat((left + lengths)[order], first)
    bottom = np.maximum.reduceat(rows[order], first) + 1
    return Pixels(values, areas, np.stack([x, y, right - x, bottom - y], 1))


def inspect_photograph(
    path: Path, apply_exif: bool = False
) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Height and width of an image that can be read, and what is wrong with it.

    Args:
        path: of the image.
        apply_exif: see `read_rgb`.
    """
    if not path.is_file():
        return None, []
    try:
        with decoder_messages() as messages:
            height, width = read_rgb(path, apply_exif).shape[:2]
            orientation = UPRIGHT if apply_exif else exif_orientation(path)
    except UserError as error:
        return None, [Finding("corrupt file", True, str(path), str(error))]
    damage = [
        Finding(
            "corrupt file",
            False,
            str(path),
            f"{path} is damaged ({message}); training takes what can be decoded of it: "
            "unpack or download it again.",
        )
        for message in messages[:1]
    ]
    if orientation != UPRIGHT:
        damage.append(
            Finding(
                "turned by Exif",
                False,
                str(path),
                f"{path} is stored turned or mirrored (Exif orientation {orientation}), and "
                "training takes the pixels as stored; if its annotation was drawn on the upright "
                "picture, set data.apply_exif=true.",
            )
        )
    return (height, width), damage


def known_segments(
    ids: NDArray[np.int32],
    listed: NDArray[np.integer],
    class_ids: NDArray[np.int64],
    is_crowd: NDArray[np.bool_],
    categories: Categories,
) -> PanopticSegments:
    """The segments of a known class; all other pixels are void.

    Args:
        ids: int32 ``[H, W]``.
        listed: ``[S]``, the id of each segment.
        class_ids: int64 ``[S]``, -1 where the class is unknown.
        is_crowd: bool ``[S]``.
        categories: the classes.
    """
    is_known = (class_ids >= 0) & (class_ids != categories.ignore_class)
    starts, lengths = runs(ids)
    numbers = np.zeros(len(starts), np.int32)
    for number, value in enumerate(listed[is_known].tolist(), start=1):
        numbers[ids.ravel()[starts] == value] = number
    id_map = np.repeat(numbers, lengths).reshape(ids.shape)
    return PanopticSegments(id_map, class_ids[is_known], is_crowd[is_known])


def compare_names(
    folder: Path, expected: Iterable[str], known: Iterable[str], cure: str, listed_in: Path
) -> Iterator[Finding]:
    """Compares a folder with what an annotation file names.

    Args:
        folder: is searched with all folders in it.
        expected: names below it that must be there.
        known: further names that may be there.
        cure: what helps against a missing file.
        listed_in: the file that names them.
    """
    present = set(list_files(folder, IMAGE_SUFFIXES))
    expected = dict.fromkeys(expected)
    for name in missing_names(folder, expected, present):
        path = str(folder / name)
        yield Finding("missing file", True, path, f"{path} {_absence(folder / name)}; {cure}.")
    used = expected.keys() | set(known)
    used |= {name.replace("\\", "/") for name in used if "\\" in name}
    for name in sorted(present - used):
        # A name on disk need not be a text.
        path = str(folder / name).encode(errors="backslashreplace").decode()
        yield Finding("extra file", False, path, f"{path} is not in {listed_in} and is not used.")


def missing_names(
    folder: Path, names: Iterable[str], present: Set[str] | None = None
) -> Iterator[str]:
    """The names below a folder that do not belong to a file.

    Args:
        folder: is searched with all folders in it.
        names: of files.
        present: what is known to be there; None lists the folder.
    """
    if present is None:
        present = set(list_files(folder, IMAGE_SUFFIXES))
    for name in names:
        # What is named with another suffix, or through a link to a folder, is looked for itself.
        if name not in present and not file_below(folder, name).is_file():
            yield name


def _absence(path: Path) -> str:
    """In what way a file is missing."""
    if path.is_symlink() and not path.exists():
        return "is a link to nothing"
    return "is not a file" if path.exists() else "does not exist"


def list_files(folder: Path, suffixes: Sequence[str]) -> Iterator[str]:
    """Names below a folder, with ``/`` between folders, of files with one of the suffixes.

    A link to nothing, a folder or a named pipe of such a name is not a file.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    pending = [""]
    while pending:
        place = pending.pop()
        try:
            entries = os.scandir(folder / place)
        except OSError:
            continue  # not there: every file in it is missing
        with entries:
            for entry in entries:
                name = f"{place}{entry.name}"
                if name.lower().endswith(endings) and _is_file(entry):
                    yield name
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def refuse_first_error(findings: Sequence[Finding]) -> None:
    """Raises the first error as a UserError, and says how many there are."""
    errors = [finding for finding in findings if finding.is_error]
    if not errors:
        return
    text, more = errors[0].text, len(errors) - 1
    if more:
        text = f"{text.removesuffix('.')} ({more} more like it: {CHECK_COMMAND} names them all)."
    raise UserError(text)


def no_truth(
    file_name: str,
    size: tuple[int, int] | None,
    findings: Sequence[Finding],
    is_complete: bool,
) -> ImageInspection:
    """The inspection of an image whose ground truth is not there or cannot be read."""
    none = np.empty(0, np.int64)
    return ImageInspection(
        file_name, size, False, is_complete, none, none, none.astype(bool), 0, tuple(findings)
    )


def content_findings(
    file_name: str,
    class_ids: NDArray[np.int64],
    areas: NDArray[np.int64],
    is_crowd: NDArray[np.bool_],
    categories: Categories,
) -> Iterator[Finding]:
    """Warnings about the segments of one image: none at all, and stuff that is counted.

    Args:
        file_name: path of the image.
        class_ids: int64 ``[S]``.
        areas: int64 ``[S]``.
        is_crowd: bool ``[S]``.
        categories: the classes.
    """
    if not areas.sum():
        yield Finding(
            EMPTY, False, file_name, f"{file_name} shows nothing: all its pixels are void."
        )
    is_stuff = ~categories.is_thing_table[class_ids]
    seen, counts = np.unique(class_ids[is_stuff & (areas > 0)], return_counts=True)
    repeated = [
        f"{count} of {categories.by_class_id[class_id].name}"
        for class_id, count in zip(seen.tolist(), counts.tolist(), strict=True)
        if count > 1
    ]
    if repeated:
        yield Finding(
            INSTANCES,
            False,
            file_name,
            f"{file_name} has several segments of one stuff class ({', '.join(repeated)}); they "
            "count as one in training and as several in the official score.",
        )
    crowds = sorted({categories.by_class_id[c].name for c in class_ids[is_stuff & is_crowd]})
    if crowds:
        yield Finding(
            INSTANCES,
            False,
            file_name,
            f"{file_name} has crowds of stuff ({', '.join(crowds)}), which training leaves out.",
        )


def class_findings(
    categories: Categories, seen: NDArray[np.bool_], file: str, is_asked_for: bool
) -> Iterator[Finding]:
    """Warnings about the classes of a whole split.

    Args:
        categories: the classes.
        seen: bool ``[C]``, class ids that some image shows.
        file: where the classes come from, for messages.
        is_asked_for: the user has said which classes are things.
    """
    if not categories.thing_ids and not is_asked_for:
        count = len(categories)
        yield Finding(
            "no things",
            False,
            file,
            f"none of the {count} classes is a thing (some tools write isthing: 0 for all), so no "
            "instances are told apart; name the things as data.classes.things=[...].",
        )
    unseen = [c.name for c in categories.classes if not seen[c.class_id]]
    if unseen:
        shown = ", ".join(unseen[:UNSEEN_NAMED])
        more = f" and {len(unseen) - UNSEEN_NAMED} more" if len(unseen) > UNSEEN_NAMED else ""
        yield Finding(
            "class without images",
            False,
            file,
            f"{len(unseen)} of {len(categories)} classes are in no image: {shown}{more}; drop them "
            "with data.classes.drop=[...], or leave them as they are.",
        )


def void_findings(share: float) -> Iterator[Finding]:
    """A warning where most of the training images is void, as if nothing but objects was annotated.

    Args:
        share: of the pixels that are void or crowds.
    """
    if share > MUCH_VOID:
        yield Finding(
            "mostly void",
            False,
            "",
            f"{100 * share:.0f} % of the pixels are void; nothing is learnt there, so a network "
            "sees anything in them. If they are background, make them a class, as import-data "
            "rest=background does.",
        )
