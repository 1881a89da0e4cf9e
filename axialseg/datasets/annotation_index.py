"""Panoptic JSON files are parsed once; later starts map an index of arrays from the cache.

COCO's training JSON takes seconds and hundreds of megabytes to parse. Its arrays are kept in the
cache folder, never in the data root. They are valid while the JSON has the same size and time of
change. Ranks and jobs that start together wait for the first of them, and all share mapped pages.
"""

import hashlib
import logging
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from axialseg.formats.array_file import DamagedArrayFile, map_arrays, write_arrays
from axialseg.formats.panoptic_table import PanopticTable, read_panoptic_table
from axialseg.machine.cache_folder import cache_folder

VERSION = 2  # of `PanopticTable` and of the way it is read
# A file that has just changed may change again within the same tick of the clock.
SETTLED_SECONDS = 2.0

log = logging.getLogger(__name__)


def indexed_table(path: Path) -> PanopticTable:
    """The table of a panoptic JSON file, from the cache if it holds it.

    Raises:
        UserError: the file is missing, no JSON or no panoptic JSON.
    """
    stamp = _stamp(path)
    if stamp is None:  # the reader says why
        return read_panoptic_table(path)
    index = index_file(path)
    with suppress(OSError, DamagedArrayFile):
        table = _mapped(path, index, stamp)
        if table is not None:
            return table
    with ExitStack() as held:
        with suppress(OSError):  # a cache that cannot be written
            index.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(index.with_suffix(".lock")))
        try:
            table = _mapped(path, index, stamp)
        except (FileNotFoundError, NotADirectoryError):
            table = None
        except (OSError, DamagedArrayFile) as error:
            log.info("The index %s cannot be read (%s); making it anew", index, error)
            table = None
        return table or _made(path, index, stamp)


def index_file(path: Path) -> Path:
    """Where the index of a JSON file is kept."""
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return cache_folder() / "annotations" / f"{path.stem}-{digest}.index"


def _stamp(path: Path) -> dict[str, Any] | None:
    """What must not change; None if the file is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return {
        "version": VERSION,
        "source": os.fspath(path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _mapped(path: Path, index: Path, stamp: dict[str, Any]) -> PanopticTable | None:
    """The table of an index; None if it is out of date."""
    arrays, facts = map_arrays(index)
    if facts["stamp"] != stamp:
        return None
    return PanopticTable(path=path, categories=facts["categories"], **arrays)


def _made(path: Path, index: Path, stamp: dict[str, Any]) -> PanopticTable:
    """The table, parsed, and kept if the cache can be written."""
    table = read_panoptic_table(path)
    age = time.time_ns() - stamp["mtime_ns"]
    if _stamp(path) != stamp or abs(age) < SETTLED_SECONDS * 1e9:
        return table
    arrays = table._asdict()
    facts = {"stamp": stamp, "categories": arrays.pop("categories")}
    del arrays["path"]
    try:
        write_arrays(index, arrays, facts)
    except OSError as error:
        log.info("%s cannot be written (%s); the next start parses %s again", index, error, path)
        return table
    return _mapped(path, index, stamp) or table
