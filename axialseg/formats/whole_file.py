"""Reads a whole regular file of the user, and refuses pipes and devices."""

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path) -> bytes:
    """Content of a regular file.

    A named pipe would wait for a writer, and a device need not end.

    Raises:
        FileNotFoundError: nothing is there; also where a part of the path is a file.
        OSError: it is no regular file, or cannot be read.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to returns at once; files do not know it.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_name(kind)}, not a file", str(path))
    with open(descriptor, "rb") as file:
        return file.read()


def _name(kind: int) -> str:
    names = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISDIR, "a folder"))
    return next((name for is_kind, name in names if is_kind(kind)), "a device")


def file_below(folder: Path, name: str) -> Path:
    """Path of a file that a list names; a Windows tool's backslash may stand for a folder."""
    path = folder / name
    if "\\" in name and not path.exists():
        return folder / name.replace("\\", "/")
    return path
