"""Is a data set where the user says? Asked before anything is read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from axialseg.errors import UserError


def check_paths(root: Path, folders: Sequence[str], files: Sequence[str]) -> None:
    """Looks for the parts of a data set.

    Args:
        root: folder of the data set.
        folders: folders in it.
        files: files in it.

    Raises:
        UserError: names the first one that is not there.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} does not exist; set data.root to the folder that holds "
            f"{' and '.join([*folders, *files])}."
        )
    missing = [name for name in folders if not (root / name).is_dir()]
    missing += [name for name in files if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root / missing[0]} does not exist; unpack the data set's files there, or set "
            f"data.root to the folder that holds {missing[0]}."
        )


def names_outside(root: Path, folder: Path, names: Iterable[str]) -> list[str]:
    """The names that lead out of a data set, as ``../../secret.png``; links are not followed.

    Args:
        root: folder of the data set.
        folder: that the names are below; it may lie elsewhere, where the user put it.
        names: as a list in the data set has them.
    """
    inside = [f"{os.path.normpath(place)}{os.sep}" for place in (root, folder)]
    return [
        name
        for name in names
        if ".." in name
        and not os.path.normpath(folder / name.replace("\\", "/")).startswith(tuple(inside))
    ]


def outside_text(listed_in: Path, name: str, root: Path) -> str:
    """The sentence for such a name."""
    return (
        f"{listed_in} names the file {name}, which is outside {root}; move it into the folder and "
        "correct the name."
    )
