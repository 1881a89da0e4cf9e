"""Files that appear whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a free name beside `path`; what is written there gets the name `path` at the end.

    A reader never sees half of it, and after a failure nothing is left. Missing folders are made.

    Args:
        path: file, link or folder; an earlier file or link is replaced.

    Yields:
        The name to write to. It has the suffix of `path`.

    Raises:
        OSError: the folder cannot be written; it names `path`, not the name beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        # A full disk tells no name at all.
        if error.errno is None or not str(error.filename or draft).startswith(str(draft)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
