"""Downloads published checkpoints: fetches with resume, verifies, converts, keeps in the cache.

The authors publish no checksums. An archive is trusted at first if its length is what the server
said and it unpacks without an error; its SHA-256 is then recorded in the cache, and whatever the
same address gives later must agree with it.
"""

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from axialseg.checkpoints.archive import DamagedArchiveError, extract_archive
from axialseg.checkpoints.published import (
    PublishedCheckpoint,
    converted_path,
    published_checkpoint,
)
from axialseg.checkpoints.tensorflow.tensor_bundle import find_prefix
from axialseg.errors import UserError
from axialseg.machine.whole_file import whole_file

_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0
_REPORT_SECONDS = 10.0

Progress = Callable[[str], object]
"""Takes one line of text; `print` and a logger's `info` both serve."""

Convert = Callable[[Path, Path], object]
"""Takes the prefix of a TensorFlow checkpoint and the .safetensors file to write."""


def download(name: str, cache_dir: Path, convert: Convert, progress: Progress) -> Path:
    """Brings a published checkpoint into the cache, unless it is there already.

    Of an archive that was fetched, unpacked and converted, only the converted file and the record
    of both checksums are kept. After an interruption the same call goes on where it stopped.

    Args:
        name: Name of a published checkpoint.
        cache_dir: Folder of the cache, see `cache_folder`.
        convert: Writes the converted file.
        progress: Is told how far the download is, at most every ten seconds.

    Returns:
        The converted file.

    Raises:
        UserError: There is no published checkpoint of that name, it cannot be fetched, or what was
            fetched is damaged or is not what was recorded before.
    """
    checkpoint = published_checkpoint(name)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f".{name}.lock", timeout=0):
            return _download(checkpoint, cache_dir, convert, progress)
    except Timeout as error:
        raise UserError(f"{name} is being downloaded already; wait until that is done.") from error
    except OSError as error:
        raise UserError(f"{name} cannot be kept in the cache {cache_dir} ({error}).") from error


def _download(
    checkpoint: PublishedCheckpoint, cache_dir: Path, convert: Convert, progress: Progress
) -> Path:
    name = checkpoint.name
    converted = converted_path(name, cache_dir)
    record_path = cache_dir / f"{name}.json"
    record = _read_record(record_path)
    if converted.is_file():
        if _sha256(converted) == record.get("converted_sha256"):
            progress(f"{name}: in the cache already")
            return converted
        progress(f"{name}: the file in the cache is damaged and will be replaced")

    archive = cache_dir / f"{name}.tar.gz"
    if not archive.is_file():
        progress(
            f"{name}: {checkpoint.weights_mb} MB of weights from {checkpoint.url}; the archive is "
            "up to three times as large, if it holds the optimiser's state too"
        )
        fetch(checkpoint.url, archive, progress)
    archive_sha256 = _sha256(archive)
    if record.get("archive_sha256", archive_sha256) != archive_sha256:
        archive.unlink()
        raise UserError(
            f"{checkpoint.url} gave another file than the one recorded in {record_path}; "
            "try again, or delete the record if the authors have replaced the file."
        )

    unpacked = cache_dir / f"{name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        progress(f"{name}: unpacking")
        _unpack(archive, unpacked)
        record = {"url": checkpoint.url, "archive_sha256": archive_sha256}
        _write_record(record_path, record)
        progress(f"{name}: converting")
        with whole_file(converted) as draft:
            convert(find_prefix(unpacked), draft)
            _write_record(record_path, {**record, "converted_sha256": _sha256(draft)})
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    archive.unlink()
    progress(f"{name}: done, {converted}")
    return converted


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive; deletes a damaged one, so that the next attempt fetches it anew."""
    try:
        extract_archive(archive, folder)
    except DamagedArchiveError:
        archive.unlink()
        raise


def fetch(url: str, target: Path, progress: Progress) -> None:
    """Fetches a file over HTTP; goes on from `<target>.part` if a former attempt left one.

    Args:
        url: Address of the file.
        target: File to write; it appears only when it is complete.
        progress: Is told how far the download is, at most every ten seconds.

    Raises:
        UserError: The file is not there, or the connection failed; a part of it may be left.
    """
    part = target.with_name(f"{target.name}.part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            done, total = _range_of_response(response, done)
            _check_space(target, (total or done) - done)
            _save(response, part, done, _Report(target.name, done, total, progress))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            part.unlink()  # the part is not of this file, so begin again
            return fetch(url, target, progress)
        raise UserError(
            f"{url} cannot be fetched (HTTP {error.code} {error.reason}); "
            "look on the authors' page whether it has moved."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{url} cannot be fetched ({error or type(error).__name__}); see to the connection and "
            "run the same command again to go on."
        ) from error
    if total is not None and part.stat().st_size != total:
        raise UserError(
            f"{url} broke off after {part.stat().st_size} of {total} bytes; "
            "run the same command again to go on."
        )
    part.replace(target)
    return None


def _range_of_response(
    response: http.client.HTTPResponse, wanted_start: int
) -> tuple[int, int | None]:
    """Tells where the content begins (at 0 if the server ignores ranges) and the whole size."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length else None
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if not match or int(match[1]) != wanted_start:
        raise http.client.HTTPException(f"the server sent the wrong range {content_range!r}")
    return wanted_start, None if match[2] == "*" else int(match[2])


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(
            f"{target} needs {_gigabytes(needed)} more, but its disk has {_gigabytes(free)} left; "
            "make room or set AXIALSEG_CACHE to a folder on another disk."
        )


def _save(response: http.client.HTTPResponse, part: Path, start: int, report: "_Report") -> None:
    with part.open("ab" if start else "wb") as file:
        while block := response.read(_BLOCK_BYTES):
            file.write(block)
            report.add(len(block))
    report.finish()


class _Report:
    """Says how far a download is, in whole lines, so that it reads well in a log file.

    Args:
        name: What is being downloaded.
        start: Bytes there already.
        total: Bytes there will be, if the server tells.
        progress: Takes the lines.
    """

    def __init__(self, name: str, start: int, total: int | None, progress: Progress) -> None:
        self._name = name
        self._start = self._done = start
        self._total = total
        self._progress = progress
        self._started = self._reported = time.monotonic()
        size = "unknown size" if total is None else _gigabytes(total)
        progress(f"{name}: fetching {size}" + (f", from {_gigabytes(start)} on" if start else ""))

    def add(self, count: int) -> None:
        """Counts bytes that have come in."""
        self._done += count
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._progress(f"{self._name}: {self._state(now)}")

    def finish(self) -> None:
        """Reports the last state."""
        self._progress(f"{self._name}: {self._state(time.monotonic())}")

    def _state(self, now: float) -> str:
        rate = (self._done - self._start) / max(now - self._started, 1e-3)  # bytes per second
        text = f"{_gigabytes(self._done)}, {rate / 1e6:.1f} MB/s"
        if not self._total:
            return text
        share = f"{100 * self._done / self._total:.0f} % of {_gigabytes(self._total)}"
        minutes = (self._total - self._done) / max(rate, 1.0) / 60
        return f"{share}, {rate / 1e6:.1f} MB/s, {minutes:.0f} min left"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10_000_000 else f"{count / 1e6:.2f} MB"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_record(path: Path) -> dict[str, str]:
    """Reads the record of a former download; an empty one if there is none."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete it and download again.") from error
    return dict(record)


def _write_record(path: Path, record: dict[str, str]) -> None:
    with whole_file(path) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
