"""One process at a time, over all ranks and jobs of a machine (and of a shared file system)."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock file, and holds it; a dead process holds none.

    Raises:
        OSError: the file cannot be made.
    """
    with path.open("w") as file:
        # A file system without locks only costs the others' waiting: each then does the work.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
