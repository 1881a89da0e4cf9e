"""Is a data set where the user says? Asked before anything is read."""

from collections.abc import Sequence
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
