"""Data sets that are painted, not downloaded: made once, in a folder of their own."""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from axialseg.errors import UserError
from axialseg.machine.in_use import keep_unchanged, may_replace

log = logging.getLogger(__name__)

Stamp = dict[str, object]


def make_once(
    root: Path, name: str, facts: Mapping[str, object], write: Callable[[Path], None]
) -> None:
    """Makes sure that `root` holds a generated data set.

    All is written to a folder beside `root`, which is renamed at the end, so that `root` is never
    half full. Of several processes that start together one does the work and the others wait.

    Args:
        root: folder of the data set; it must not exist, be empty, or be an earlier one of ours.
        name: of the data set, as in `data=<name>`.
        facts: what everything in it follows from; one with other facts is replaced.
        write: fills an empty folder.

    Until this process ends, no other one replaces it.

    Raises:
        UserError: `root` holds files that are not ours, cannot be written, or holds a data set that
            another job is using and that would be replaced.
    """
    stamp: Stamp = {"made_by": f"axialseg {name}", **facts}
    in_use = root.parent / f".{root.name}.in_use"
    if _stamp_of(root, name) == stamp:
        keep_unchanged(in_use)
        if _stamp_of(root, name) == stamp:  # it was not replaced in between
            return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.parent / f".{root.name}.lock"):
            if _stamp_of(root, name) != stamp:
                _refuse_foreign(root, name)
                if not may_replace(in_use):
                    raise UserError(
                        f"another job is using the {name} data set in {root}, made with other "
                        "settings; wait for its end, or give another folder with data.root"
                    )
                log.info("Generating the %s data set in %s", name, root)
                _replace(root, name, stamp, write)
            keep_unchanged(in_use)
    except OSError as error:
        raise UserError(
            f"{root} cannot be written ({error.strerror}); give a writable folder with data.root."
        ) from error


def _replace(root: Path, name: str, stamp: Stamp, write: Callable[[Path], None]) -> None:
    """Writes the data set aside, then puts it in place of whatever is at `root`."""
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
        draft = Path(folder) / "new"
        draft.mkdir()
        write(draft)
        (draft / f"{name}.json").write_text(json.dumps(stamp))
        if root.exists():
            root.rename(Path(folder) / "outdated")
        draft.rename(root)


def _stamp_of(root: Path, name: str) -> Stamp | None:
    """The stamp of a finished data set of ours, else None."""
    try:
        stamp = json.loads((root / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(stamp, dict) and stamp.get("made_by") == f"axialseg {name}"
    return stamp if is_ours else None


def _refuse_foreign(root: Path, name: str) -> None:
    """Raises a UserError if something is at `root` that must not be replaced."""
    is_free = not root.exists() or (root.is_dir() and not any(root.iterdir()))
    if not is_free and _stamp_of(root, name) is None:
        raise UserError(
            f"{root} holds files that data={name} did not write; give another folder as data.root."
        )
