"""The pictures that a user means by a file, a folder or a pattern."""

import glob
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from axialseg.errors import UserError

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class ImagePath(NamedTuple):
    """A picture or a video.

    Attributes:
        path: of the file.
        name: of its results: its place below what the user named, without the ending; no two of a
            listing are the same.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether the ending says so."""
        return self.path.suffix.lower() in VIDEOS


def find_images(wanted: str, besides: Path) -> list[ImagePath]:
    """Lists what is meant, in the order of the paths.

    Args:
        wanted: a file; a folder, whose pictures are taken, those of inner folders too; or a pattern
            with `*`, `?` or `**`.
        besides: folder of results, whose content is no picture to take.

    Raises:
        UserError: there is no such thing, or no picture in it.
    """
    place = Path(wanted).expanduser()
    if place.is_dir():
        root = place
        found = [path for path in place.rglob("*") if path.suffix.lower() in IMAGES]
    elif place.is_file():
        root, found = place.parent, [place]
    elif glob.has_magic(wanted):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), place.parts))
        matches = (Path(match) for match in glob.glob(str(place), recursive=True))
        found = [path for path in matches if path.suffix.lower() in IMAGES + VIDEOS]
    else:
        raise UserError(
            f"images={wanted} does not exist; give a file, a folder, or a pattern such as a/*.jpg"
        )
    results = besides.resolve()
    if place.is_dir() and place.resolve().is_relative_to(results):
        raise UserError(f"out={besides} would mix results with the pictures; give another folder")
    found = [path for path in found if path.is_file() and results not in path.resolve().parents]
    if not found:
        kinds = ", ".join(IMAGES)
        raise UserError(f"images={wanted} holds no picture ({kinds}); name another place")
    relative = [path.relative_to(root) for path in sorted(found)]
    uses = Counter(name.with_suffix("") for name in relative)
    return [
        # Two pictures that differ in their endings alone keep them.
        ImagePath(root / name, name.with_suffix("") if uses[name.with_suffix("")] == 1 else name)
        for name in relative
    ]
