"""`python -m axialseg benchmark-loader`: what it prints, and its arithmetic."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_tree import write_tree

from axialseg.commands import benchmark_loader
from axialseg.commands.benchmark_loader import advice

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("cores", [1, 2])
def test_measures_and_advises(
    root: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
) -> None:
    monkeypatch.setattr(benchmark_loader, "cpu_count", lambda: cores)
    arguments = ["data=coco_format", f"data.root={root}", "data.crop_size=[33,33]", "seconds=0.05"]
    command(benchmark_loader.main, [*arguments, "images_per_second=3", "batch_size=2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{root}: crops of 33 x 33, targets of axial_hybrid_tiny"
    assert re.fullmatch(r"  1 worker +[\d.]+ images/s", lines[1])
    assert len(lines) == 2 + cores
    assert lines[-1].startswith("3 images/s of training need data.num_workers=")


def test_advice() -> None:
    assert advice(100, 8.0, 16, 1) == ["100 images/s of training need data.num_workers=13"]
    assert advice(96, 8.0, 16, 2) == [
        "96 images/s of training need data.num_workers=6 on each of 2 devices"
    ]
    (line,) = advice(97, 8.0, 12, 2)  # one more than 12 workers make
    assert line == (
        "97 images/s of training need data.num_workers=7 on each of 2 devices, which is more than "
        "the 12 cores here can run"
    )
    speeds = [line.split(" ")[0] for line in advice(None, 9.5, 16, 1)]
    assert speeds == ["10", "20", "50", "100"]
    assert len(advice(None, 2000.0, 16, 1)) == 1


def test_mistakes(refusal: Refusal, root: Path) -> None:
    own = ["data=coco_format", f"data.root={root}"]
    for wrong in ("images_per_second=0", "seconds=-1", "batch_size=0", "devices=0"):
        assert wrong in refusal(benchmark_loader.main, [*own, wrong])
    assert "/none does not exist" in refusal(
        benchmark_loader.main, ["data=coco", "data.root=/none"]
    )


def test_damaged_images_are_mistakes_too(refusal: Refusal, root: Path) -> None:
    for image in (root / "train2017").iterdir():
        image.write_bytes(b"")
    message = refusal(
        benchmark_loader.main,
        ["data=coco_format", f"data.root={root}", "data.crop_size=[33,33]", "seconds=0.05"],
    )
    assert "cannot be read" in message
