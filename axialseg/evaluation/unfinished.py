"""What an evaluation has done so far, on disk: an interrupted one goes on where it stopped.

While it runs, `<output>/unfinished/` holds one line of JSON for each image that is done, and the
files that were exported. What lies beside it, from an earlier evaluation, is not touched until all
is done. A line that a killed process has not finished is ignored.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axialseg.errors import UserError

NAME = "unfinished"


class Journal:
    """Index of an image -> what is kept of it; in memory, and in a file if there is a folder.

    Args:
        folder: of the unfinished evaluation; None keeps all in memory only.
        name: of the journal.
        rank: of the process. Each writes a file of its own, and reads those of all at the start.

    Attributes:
        rows: the content.
    """

    def __init__(self, folder: Path | None, name: str, rank: int = 0) -> None:
        self.rows: dict[int, Any] = {}
        self._file = None
        if folder is None:
            return
        self._path = folder / f"{name}.{rank}.jsonl"
        for path in sorted(folder.glob(f"{name}.*.jsonl")):
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if path == self._path and whole != content:
                path.write_bytes(whole)
            self.rows |= dict(json.loads(line) for line in whole.splitlines())
        with writing(folder):
            self._file = self._path.open("a")

    def add(self, index: int, row: Any) -> None:
        """Keeps what JSON can hold.

        Raises:
            UserError: the file cannot be written.
        """
        self.rows[index] = row
        if self._file is not None:
            with writing(self._path.parent):
                self._file.write(json.dumps((index, row)) + "\n")
                self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def unfinished_folder(output: str | Path) -> Path | None:
    """The folder of an unfinished evaluation that writes to `output`; None if it keeps none."""
    folder = Path(output) / NAME
    return folder if folder.is_dir() else None


def open_unfinished(output: str | Path, fingerprint: str) -> Path:
    """The folder to go on in, or a new one if what is there was made with other settings.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(output) / NAME
    file = folder / "fingerprint.txt"
    if not file.is_file() or file.read_text() != fingerprint:
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            file.write_text(fingerprint)
    return folder


def finished_images(folder: Path) -> set[int]:
    """Indices of the images that all journals of a folder hold."""
    names = {path.name.split(".")[0] for path in folder.glob("*.jsonl")}
    journals = []
    for name in names:
        lines = (p.read_bytes().splitlines(keepends=True) for p in folder.glob(f"{name}.*.jsonl"))
        journals.append(
            {json.loads(line)[0] for part in lines for line in part if line.endswith(b"\n")}
        )
    return set.intersection(*journals) if journals else set()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises a sentence with a cure if the disk is full or cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); free space there or give another "
            "folder. The same command goes on with the images that are missing."
        ) from error
