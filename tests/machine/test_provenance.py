"""Whoever has a run's folder, the sources and the packages can repeat the run."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from axialseg.commands import train
from axialseg.machine import provenance
from axialseg.machine.provenance import keep_provenance

Command = Callable[[Callable[[], None], list[str]], None]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def starts(folder: Path) -> list[dict]:
    return json.loads((folder / "provenance.json").read_text())


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one revision, in the place of ours."""
    folder = tmp_path / "sources"
    (folder / "axialseg").mkdir(parents=True)
    (folder / "axialseg/a.py").write_text("one\n")
    (folder / "train.py").write_text("")
    (folder / ".gitignore").write_text("outputs\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "SOURCES", folder)
    return folder


def test_a_repeated_run_has_the_same_metrics_bit_for_bit(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    first, again = tmp_path / "first run", tmp_path / "first run_again"
    command(train.main, [*tiny_run, "seed=3", f"hydra.run.dir='{first}'"])
    (start,) = starts(first)
    program, script, *arguments = shlex.split(start["command"])
    assert (program, script) == ("python", "train.py")
    command(train.main, arguments)
    for name in ("metrics.json", ".hydra/config.yaml"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    columns = [(folder / "metrics.csv").read_text().splitlines()[0] for folder in (first, again)]
    assert columns[0] == columns[1]
    assert starts(again)[0]["packages"] == start["packages"]
    assert start["packages"]["torch"]
    assert start["hardware"]["cores"] >= 1
    assert "- seed=3" in (first / ".hydra/overrides.yaml").read_text()


def test_the_patch_makes_the_sources_of_the_run(sources: Path, tmp_path: Path) -> None:
    git(sources, "mv", "axialseg/a.py", "axialseg/b.py")
    (sources / "axialseg/b.py").write_text("one\ntwo\n")
    (sources / "axialseg/picture [1].bin").write_bytes(bytes(range(256)))
    (sources / "outputs").mkdir()
    (sources / "outputs/left_out.txt").write_text("x")
    (sources / "long.bin").write_bytes(bytes(provenance.STORED_BYTES + 1))
    (sources / "photos/more").mkdir(parents=True)
    (sources / "photos/classes.csv").write_text("id,name\n1,car\n")
    for number in range(provenance.NAMED_FILES):  # data of one's own are no sources
        (sources / f"photos/more/{number}.jpg").write_bytes(bytes(range(256)))
    status = git(sources, "status", "--porcelain")
    run = tmp_path / "run"
    keep_provenance("python train.py", run, 2)
    assert git(sources, "status", "--porcelain") == status
    (start,) = starts(run)
    assert start["new_files_not_stored"] == ["long.bin", "photos/"]

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(sources), str(clone))
    git(clone, "checkout", "-q", start["revision"])
    git(clone, "apply", str(run / start["changes"]))
    for folder in (sources, clone):
        shutil.rmtree(folder / ".git")
        shutil.rmtree(folder / "outputs", ignore_errors=True)
    (sources / "long.bin").unlink()
    shutil.rmtree(sources / "photos/more")
    contents = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in (sources, clone)
    ]
    assert contents[0] == contents[1]
    assert not (clone / "axialseg/a.py").exists()


def test_a_start_that_differs_is_added(sources: Path, tmp_path: Path) -> None:
    for cores in (2, 2, 4):
        keep_provenance("python train.py", tmp_path, cores)
    assert [start["hardware"]["cores"] for start in starts(tmp_path)] == [2, 4]
    assert [start["revision"] for start in starts(tmp_path)] == [
        git(sources, "rev-parse", "HEAD")
    ] * 2
    assert "changes" not in starts(tmp_path)[0]
    (tmp_path / "provenance.json").write_text("{")
    keep_provenance("python train.py", tmp_path, 1)
    assert len(starts(tmp_path)) == 1


def test_an_installed_package_has_versions_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SOURCES", tmp_path)
    keep_provenance("python train.py", tmp_path / "run", 1)
    assert starts(tmp_path / "run")[0]["revision"] is None
