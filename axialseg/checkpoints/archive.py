"""Extracts downloaded .tar.gz archives completely or not at all, and never outside the target."""

import gzip
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from axialseg.errors import UserError
from axialseg.machine.whole_file import whole_file

_COPY_BYTES = 1 << 20
# Packed weights are hardly smaller. An archive that grows far more is made to fill a disk.
_LARGEST_GROWTH = 20
_ALWAYS_ALLOWED_BYTES = 100 << 20
_MOST_FILES = 10_000


class DamagedArchiveError(UserError):
    """An archive that is cut off or damaged, so that fetching it again may help."""


def extract_archive(archive: Path, target: Path) -> None:
    """Extracts an archive into a new folder.

    Everything goes to a folder beside the target first, which gets the target's name at the end;
    after a failure nothing is left. Owners, permissions and times in the archive are ignored.

    Args:
        archive: A .tar.gz file with plain files and folders.
        target: Folder to create; its parent is created if needed.

    Raises:
        DamagedArchiveError: The file is not such an archive, or is cut off or damaged.
        UserError: The target exists, the archive cannot be read or the target not be written, or a
            member is a link or a device or would lie outside the target; or the archive grows far
            beyond its size.
    """
    if target.exists():
        raise UserError(f"{target} exists already; remove it or extract {archive} elsewhere.")
    try:
        with whole_file(target) as draft:
            draft.mkdir()
            _extract_members(archive, draft)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise DamagedArchiveError(
            f"{archive} is not a .tar.gz archive, or is cut off or damaged ({error}); "
            "fetch it again."
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be extracted to {target} ({error}).") from error


def _extract_members(archive: Path, folder: Path) -> None:
    with gzip.open(archive) as unlimited:
        stream = _Limited(unlimited, archive)
        with tarfile.open(fileobj=stream, mode="r|") as members:  # type: ignore[call-overload]
            for number, member in enumerate(members):
                if number == _MOST_FILES:
                    raise _too_much(archive, f"more than {_MOST_FILES} files")
                _check(member, archive, folder)
                members.extract(member, folder, set_attrs=False, filter="data")
        # tarfile stops at the first header that it cannot read, without a word; the checksum at
        # the end of the gzip stream, which is checked on reaching it, tells whether that was right.
        while stream.read(_COPY_BYTES):
            pass


class _Limited:
    """Reads a compressed archive up to a size that no real one has."""

    def __init__(self, stream: gzip.GzipFile, archive: Path) -> None:
        self._stream = stream
        self._archive = archive
        self._left = _ALWAYS_ALLOWED_BYTES + _LARGEST_GROWTH * archive.stat().st_size

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise _too_much(self._archive, f"more than {_LARGEST_GROWTH} times its own size")
        return content


def _too_much(archive: Path, what: str) -> UserError:
    return UserError(f"{archive} unpacks to {what}; do not use this archive.")


def _check(member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    """Refuses what tarfile's filter "data" lets pass: links, Windows' paths, one name twice."""
    name = member.name
    is_absolute = name.startswith("/") or re.match("[A-Za-z]:", name)
    if is_absolute or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
        raise UserError(
            f"{archive} holds {name!r}, which would lie outside the target folder; "
            "do not use this archive."
        )
    if not member.isdir() and (not member.isreg() or member.issparse()):
        raise UserError(
            f"{archive} holds {name}, which is neither a plain file nor a folder; "
            "do not use this archive."
        )
    if not member.isdir() and (folder / name).exists():
        raise FileExistsError(f"it holds {name} twice")
