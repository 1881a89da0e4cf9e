import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from axialseg.checkpoints import archive as archive_module
from axialseg.checkpoints.archive import DamagedArchiveError, extract_archive
from axialseg.errors import UserError

CONTENTS = {
    "model/ckpt-1.index": b"index",
    "model/ckpt-1.data-00000-of-00001": np.random.default_rng(0).bytes(30_000),
    "model/checkpoint": b"",
}


def write_archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))


def plain_file(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.tar.gz"
    write_archive(path, [plain_file(name, content) for name, content in CONTENTS.items()])
    return path


@pytest.fixture
def assert_nothing_left(tmp_path: Path) -> Callable[[], None]:
    def check() -> None:
        assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]

    return check


def test_all_files_are_extracted(archive: Path, tmp_path: Path) -> None:
    extract_archive(archive, tmp_path / "new" / "target")
    target = tmp_path / "new" / "target"
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == CONTENTS
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["target"]


def test_folders_and_a_leading_dot(tmp_path: Path) -> None:
    members = [special("./", tarfile.DIRTYPE), special("./empty", tarfile.DIRTYPE)]
    write_archive(tmp_path / "a.tar.gz", [*members, plain_file("./sub/file", b"1")])
    extract_archive(tmp_path / "a.tar.gz", tmp_path / "target")
    assert (tmp_path / "target" / "empty").is_dir()
    assert (tmp_path / "target" / "sub" / "file").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("model/../../outside", tarfile.REGTYPE),
        ("/outside", tarfile.REGTYPE),
        ("C:/outside", tarfile.REGTYPE),
        ("model\\..\\..\\outside", tarfile.REGTYPE),
        ("../outside", tarfile.DIRTYPE),
        ("link", tarfile.SYMTYPE),
        ("link", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
        ("device", tarfile.BLKTYPE),
        ("pipe", tarfile.FIFOTYPE),
    ],
)
def test_members_that_could_do_harm(
    tmp_path: Path, name: str, kind: bytes, assert_nothing_left: Callable[[], None]
) -> None:
    harmful = special(name, kind, target="/etc")
    write_archive(tmp_path / "model.tar.gz", [plain_file("good", b"1"), harmful])
    with pytest.raises(UserError, match="do not use this archive") as caught:
        extract_archive(tmp_path / "model.tar.gz", tmp_path / "target")
    assert not isinstance(caught.value, DamagedArchiveError)
    assert_nothing_left()
    assert not (tmp_path.parent / "outside").exists()


def test_a_link_is_not_followed_by_a_later_file(
    tmp_path: Path, assert_nothing_left: Callable[[], None]
) -> None:
    link = special("folder", tarfile.SYMTYPE, str(tmp_path))
    write_archive(tmp_path / "model.tar.gz", [link, plain_file("folder/file", b"1")])
    with pytest.raises(UserError, match="neither a plain file nor a folder"):
        extract_archive(tmp_path / "model.tar.gz", tmp_path / "target")
    assert_nothing_left()


def test_cut_anywhere(archive: Path, assert_nothing_left: Callable[[], None]) -> None:
    whole = archive.read_bytes()
    for size in [*range(0, 40, 3), *range(1000, len(whole), 3001), *range(-12, 0)]:
        archive.write_bytes(whole[:size])
        with pytest.raises(DamagedArchiveError, match="cut off or damaged"):
            extract_archive(archive, archive.parent / "target")
        assert_nothing_left()


@pytest.mark.parametrize("position", [700, 20_000, -6])
def test_damaged_anywhere(
    archive: Path, assert_nothing_left: Callable[[], None], position: int
) -> None:
    damaged = bytearray(archive.read_bytes())
    damaged[position] ^= 0x10
    archive.write_bytes(damaged)
    with pytest.raises(DamagedArchiveError, match="cut off or damaged"):
        extract_archive(archive, archive.parent / "target")
    assert_nothing_left()


def test_damaged_header_in_an_archive_of_the_old_checksum(archive: Path) -> None:
    """tarfile takes a broken header for the end; the checksum of the whole gives it away."""
    tar = bytearray(gzip.decompress(archive.read_bytes()))
    trailer = archive.read_bytes()[-8:]
    tar[1024 + 5] ^= 0xFF  # the second member's name
    archive.write_bytes(gzip.compress(bytes(tar))[:-8] + trailer)
    with pytest.raises(DamagedArchiveError, match="CRC"):
        extract_archive(archive, archive.parent / "target")


def test_tar_cut_before_it_was_compressed(archive: Path) -> None:
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())[:5000]))
    with pytest.raises(DamagedArchiveError, match="cut off or damaged"):
        extract_archive(archive, archive.parent / "target")


def test_another_kind_of_file(archive: Path, assert_nothing_left: Callable[[], None]) -> None:
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(DamagedArchiveError, match=r"not a \.tar\.gz archive"):
        extract_archive(archive, archive.parent / "target")
    assert_nothing_left()


def test_the_same_name_twice(tmp_path: Path, assert_nothing_left: Callable[[], None]) -> None:
    write_archive(tmp_path / "model.tar.gz", [plain_file("a", b"1"), plain_file("a", b"2")])
    with pytest.raises(UserError, match="cannot be extracted"):
        extract_archive(tmp_path / "model.tar.gz", tmp_path / "target")
    assert_nothing_left()


def test_existing_target_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("kept")
    with pytest.raises(UserError, match="exists already"):
        extract_archive(archive, tmp_path / "target")
    assert (tmp_path / "target" / "mine").read_text() == "kept"


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        extract_archive(tmp_path / "none.tar.gz", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "the end", "a name"])
def test_an_archive_that_grows_without_end(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_nothing_left: Callable[[], None],
) -> None:
    monkeypatch.setattr(archive_module, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    zeros = bytes(30 << 20)
    if place == "the end":
        (tmp_path / "model.tar.gz").write_bytes(gzip.compress(zeros))
    else:
        long = special("x" * (5 << 20), tarfile.REGTYPE)
        members = [plain_file("a", zeros)] if place == "a file" else [long]
        write_archive(tmp_path / "model.tar.gz", members)
    with pytest.raises(UserError, match="20 times its own size") as caught:
        extract_archive(tmp_path / "model.tar.gz", tmp_path / "target")
    assert not isinstance(caught.value, DamagedArchiveError)
    assert_nothing_left()


def test_an_archive_of_very_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_nothing_left: Callable[[], None]
) -> None:
    monkeypatch.setattr(archive_module, "_MOST_FILES", 10)
    write_archive(tmp_path / "model.tar.gz", [plain_file(str(n), b"") for n in range(11)])
    with pytest.raises(UserError, match="more than 10 files"):
        extract_archive(tmp_path / "model.tar.gz", tmp_path / "target")
    assert_nothing_left()
