"""Checkpoints of runs: what is lost, damaged or a stranger's, and what then happens."""

import errno
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axialseg.checkpoints import trainer_checkpoints
from axialseg.checkpoints.run_checkpoints import check_whole, load_plain, newest_checkpoint
from axialseg.checkpoints.trainer_checkpoints import WholeCheckpointIO
from axialseg.errors import UserError


def content(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"net.w": torch.arange(1000.0) + step}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with steps 20 and 40."""
    place = tmp_path / "run" / "checkpoints"
    for step in (20, 40):
        WholeCheckpointIO().save_checkpoint(content(step), place / f"step_{step}.ckpt")
    (place / "last.ckpt").symlink_to("step_40.ckpt")
    return place.parent


def newest_step(run: Path) -> int:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return int(load_plain(checkpoint)["global_step"])


def test_last_is_the_newest(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_step(run) == 40
    assert caplog.text == ""


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "damage", ["lost", "dangling", "folder", "copied", "cut", "empty", "flipped"]
)
def test_a_lost_or_damaged_last_is_not_the_beginning(
    damage: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last, newest = run / "checkpoints/last.ckpt", run / "checkpoints/step_40.ckpt"
    expected = 40
    if damage in ("lost", "dangling", "folder", "copied"):
        last.unlink()
    if damage == "dangling":
        last.symlink_to("step_60.ckpt")
    if damage == "folder":
        last.mkdir()
    if damage == "copied":
        shutil.copy(newest, last)
    whole = newest.read_bytes()
    if damage == "cut":
        newest.write_bytes(whole[:-200])
    if damage == "empty":
        newest.write_bytes(b"")
    if damage == "flipped":
        position = whole.index(torch.arange(40.0, 80.0).numpy().tobytes())
        newest.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    if damage in ("cut", "empty", "flipped"):
        expected = 20
    assert newest_step(run) == expected
    assert (f"step_{expected}.ckpt is read in its place" in caplog.text) == (damage != "copied")


def test_all_damaged_is_refused_and_nothing_is_deleted(run: Path) -> None:
    files = sorted((run / "checkpoints").glob("step_*.ckpt"))
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no checkpoint that can be read") as refused:
        newest_checkpoint(run)
    assert all(str(file) in str(refused.value) for file in files[:1])
    assert sorted((run / "checkpoints").glob("step_*.ckpt")) == files


def test_a_broken_link_alone_is_refused(run: Path) -> None:
    for file in (run / "checkpoints").glob("step_*.ckpt"):
        file.unlink()
    with pytest.raises(UserError, match="broken link"):
        newest_checkpoint(run)


def test_any_flipped_bit_is_noticed_or_changes_nothing(run: Path) -> None:
    file = run / "checkpoints/step_20.ckpt"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for position in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            check_whole(file)
            read = load_plain(file)
        except UserError:
            noticed += 1
        else:
            assert read["global_step"] == 20
            assert torch.equal(read["state_dict"]["net.w"], content(20)["state_dict"]["net.w"])
    assert noticed > 200


def test_cut_anywhere(run: Path) -> None:
    file = run / "checkpoints/step_20.ckpt"
    whole = file.read_bytes()
    for size in [*range(0, len(whole), 997), len(whole) - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a whole checkpoint"):
            check_whole(file)


def test_a_compressed_file_may_be_a_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        check_whole(tmp_path / "x.ckpt")


class Opens:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_file_that_could_run_code_is_refused_without_bad_advice(
    hidden: bool, tmp_path: Path
) -> None:
    file = tmp_path / "x.ckpt"
    harmful = Opens(tmp_path / "done")
    torch.save({**content(1), "callbacks": {"x": harmful}} if hidden else harmful, file)
    check_whole(file)
    for read in (load_plain, WholeCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match="can run code of whoever made it") as refused:
            read(file)
        assert "weights_only" not in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("how", ["full", "read-only", "short"])
def test_a_failed_save_says_what_is_still_whole(
    how: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "checkpoints/step_60.ckpt"
    earlier = {file.name for file in path.parent.iterdir()}

    def fail(checkpoint: Any, file: Any) -> None:
        if how == "short":
            file.write(b"half a file")
            return
        number = errno.ENOSPC if how == "full" else errno.EROFS
        raise OSError(number, "no space" if how == "full" else "read-only")

    monkeypatch.setattr(trainer_checkpoints.torch, "save", fail)
    with pytest.raises(UserError, match=f"{path} cannot be written") as refused:
        WholeCheckpointIO().save_checkpoint(content(60), path)
    assert f"whole are still: {path.parent / 'step_40.ckpt'}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {file.name for file in path.parent.iterdir()} == earlier


def test_a_full_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that a real full disk gives through torch's writer."""
    path = run / "checkpoints/step_60.ckpt"
    original = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: Any) -> int:
            if self.file.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(Path, "open", lambda self, mode="r": Full(original(self, mode)))
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        WholeCheckpointIO().save_checkpoint(content(60), path)
    assert newest_step(run) == 40
    logging.getLogger().debug("done")
