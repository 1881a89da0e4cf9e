"""Extraction of downloaded .tar.gz archives, wholly or not at all, and never outside the target."""

import gzip
import re
import shutil
import tarfile
import uuid
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from axialseg.errors import UserError

_COPY_BYTES = 1 << 20


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
            member is a link or a device or would lie outside the target.
    """
    if target.exists():
        raise UserError(f"{target} exists already; remove it or extract {archive} elsewhere.")
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        _extract_members(archive, unfinished)
        unfinished.rename(target)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise DamagedArchiveError(
            f"{archive} is not a .tar.gz archive, or is cut off or damaged ({error}); "
            "fetch it again."
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be extracted to {target} ({error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _extract_members(archive: Path, folder: Path) -> None:
    with gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                _extract_member(members, member, archive, folder)
        # tarfile stops at the first header that it cannot read, without a word; the checksum at
        # the end of the gzip stream, which is checked on reaching it, tells whether that was right.
        while stream.read(_COPY_BYTES):
            pass


def _extract_member(
    members: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path
) -> None:
    path = folder / _safe_name(member.name, archive)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    content = members.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise UserError(
            f"{archive} holds {member.name}, which is neither a plain file nor a folder; "
            "do not use this archive."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        _copy(content, file, member.size)


def _copy(content: IO[bytes], file: IO[bytes], size: int) -> None:
    shutil.copyfileobj(content, file, _COPY_BYTES)
    if file.tell() != size:
        raise EOFError("it ends within a file")


def _safe_name(name: str, archive: Path) -> PurePosixPath:
    """Checks that a member's name is a path downwards, on Windows as well."""
    parts = PurePosixPath(name).parts
    is_absolute = name.startswith("/") or re.match("[A-Za-z]:", name)
    if is_absolute or ".." in parts or "\\" in name or "\0" in name:
        raise UserError(
            f"{archive} holds {name!r}, which would lie outside the target folder; "
            "do not use this archive."
        )
    return PurePosixPath(name)
