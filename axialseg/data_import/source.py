"""What every kind of annotation looks like to the importer."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class SourceImage(NamedTuple):
    """One photograph of a source.

    Attributes:
        name: path in the result, below the folder of the images.
        file: the photograph; None if `content` has it.
        content: of the file, where an annotation file has it inside.
        size: (height, width) that the annotation was drawn at; None if it does not say.
        split: train or val where the source has splits; None otherwise.
    """

    name: str
    file: Path | None
    content: bytes | None
    size: tuple[int, int] | None
    split: str | None


class Source(Protocol):
    """Annotations of one kind."""

    categories: Categories
    images: list[SourceImage]
    counts: Counter[str]
    """What was decided by rule, in words -> how often; grows while segments are read."""

    def segments(self, index: int, size: tuple[int, int]) -> PanopticSegments | None:
        """The segments of image `index` at (height, width); None leaves the image out."""
        ...


def find_photograph(name: str, folders: Sequence[Path], by_name: dict[str, list[Path]]) -> Path:
    """The photograph that an annotation names, below one of some folders.

    Args:
        name: as the annotation has it; a path that leads elsewhere counts by its last part.
        folders: searched in this order.
        by_name: last part -> the files of that name below these folders.

    Raises:
        FileNotFoundError: there is none, or by its last part more than one.
    """
    name = name.replace("\\", "/")
    if not name.startswith("/") and ".." not in name.split("/"):
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    found = by_name.get(name.rpartition("/")[2], [])
    if len(found) != 1:
        raise FileNotFoundError(name)
    return found[0]


def files_by_name(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Last part of the path -> images below some folders, each once."""
    files: dict[str, dict[Path, None]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                files.setdefault(path.name, {})[path.resolve()] = None
    return {name: list(paths) for name, paths in files.items()}


def refuse_without_images(images: Sequence[SourceImage], where: Path, missing: str) -> None:
    """Raises a UserError if nothing can be imported."""
    if not images:
        example = f", such as {missing}" if missing else ""
        raise UserError(
            f"no photograph of {where} was found{example}; give their folder as images=<folder>."
        )
