"""Locks of folders that a job needs for itself, or unchanged; they end with their process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from axialseg.errors import UserError

# Files whose shared lock this process holds until it ends, or replaces the data of the lock.
_held: dict[Path, IO[str]] = {}


@contextmanager
def only_job_in(folder: Path) -> Iterator[None]:
    """Keeps other jobs out of the folder of a job.

    Raises:
        UserError: one is running there.
    """
    lock = FileLock(folder / ".running.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another job is running in {folder}; wait for its end, or give another folder"
        ) from None
    # A read-only folder, or a file system without locks: nothing keeps a second job out there.
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def refuse_running(folder: Path) -> None:
    """Refuses a folder in which a job is running, before anything is written there.

    Raises:
        UserError: one is.
    """
    if (folder / ".running.lock").exists():
        with only_job_in(folder):
            pass


def refuse_links(folder: Path) -> None:
    """Refuses links in place of the files that a job writes in its folder, as a log.

    In a stranger's folder they could lead to any file of the user.

    Raises:
        UserError: there is one.
    """
    subfolders = (folder / ".hydra", folder / "unfinished")
    written = [path for place in subfolders for path in (place, *place.glob("*"))]
    for path in [*written, *folder.glob("*.log")]:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and the job would write where it leads to; delete it, or give "
                "another folder"
            )


def keep_unchanged(lock_file: Path) -> None:
    """Keeps others from replacing the data of a lock file while this process lives.

    Waits for a process that is replacing them.
    """
    if lock_file in _held:
        return
    with suppress(OSError):  # a read-only folder: nobody replaces anything there
        file = lock_file.open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        _held[lock_file] = file


def may_replace(lock_file: Path) -> bool:
    """Whether no other process needs the data of the lock file unchanged.

    A lock of this process, as of an earlier job of a sweep, does not count.
    """
    if lock_file in _held:
        with _held.pop(lock_file) as file:
            fcntl.flock(file, fcntl.LOCK_UN)  # also for the copies in loader workers
    with lock_file.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True
