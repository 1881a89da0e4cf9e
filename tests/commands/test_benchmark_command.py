"""`python -m axialseg benchmark`: what it prints, and what it refuses."""

import json
import re
from collections.abc import Callable

import pytest

from axialseg.commands import benchmark
from axialseg.costs import benchmark as measuring

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

TINY = [
    "model=axial_deeplab_tiny",
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
    "size=[33,49]",
    "seconds=0",
    "device=cpu",
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process for each peak: they are tested beside what measures them."""
    monkeypatch.setattr(measuring, "peak_bytes", lambda contestant: 3 * 2**20)


@pytest.mark.usefixtures("here")
def test_json(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(benchmark.main, [*TINY, "batch=2", "precision=bf16-mixed", "format=json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"] == "axial_deeplab_tiny"
    assert (printed["size"], printed["batch"], printed["classes"]) == ([33, 49], 2, 19)
    assert (printed["device"], printed["precision"]) == ("cpu", "bf16-mixed")
    rows = {(row["part"], row["form"]): row for row in printed["rows"]}
    ours = rows["training step", "ours"]
    assert ours["time_ratio"] == ours["memory_ratio"] == 1
    assert ours["multiply_adds"] == 3 * rows["inference", "ours"]["multiply_adds"] > 0
    textbook = rows["training step", "textbook attention"]
    assert textbook["time_ratio"] == pytest.approx(textbook["seconds"] / ours["seconds"])
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["rounds"] >= 3
        assert row["peak_bytes"] == 3 * 2**20
    assert rows["post-processing", "ours"]["multiply_adds"] is None


@pytest.mark.usefixtures("here")
def test_table(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(benchmark.main, [*TINY, "data=coco"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "axial_deeplab_tiny, 33x49, batch 1, 133 classes, 32-true"
    assert re.fullmatch(r"\d+ threads? of .*; .* Python 3\..*, PyTorch \d.*", lines[1])
    labels = [line[:30].rstrip() for line in lines[3:]]
    assert labels[:11] == [
        "",
        "training step",
        "  ours",
        "  textbook attention",
        "inference",
        "  ours",
        "  ours, batch norms folded",
        "  ours, folded, channels last",
        "  ours, folded, fused",
        "  textbook attention",
        "post-processing",
    ]
    pattern = r"  ours +[\d.,]+ ms +[\d.,]+ +3 MiB +[\d.,]+ G +1\.00 x +1\.00 x"
    assert re.fullmatch(pattern, lines[5])
    assert "training step: memory, ours ..." in printed.err


def test_what_does_not_fit_is_said() -> None:
    fits = measuring.Cost(0.5, 3, 2**20)
    costs = {"ours": fits, "textbook attention": measuring.Cost(None, 0, None)}
    rows = benchmark.rows_of("inference", costs, 2, 10**9)
    facts = {"model": "m", "size": [1, 2], "batch": 2, "classes": 3, "precision": "32-true"}
    rest = {"compile": True, "machine": "a machine", "peak_memory": "somehow"}
    lines = benchmark.as_table(facts | rest, rows).splitlines()
    assert lines[0].endswith("32-true, compiled")
    words = [" ".join(line.split()) for line in lines]
    assert words[5] == "ours 500.0 ms 4.00 1 MiB 1.00 G 1.00 x 1.00 x"
    assert words[6] == "textbook attention out of memory out of memory 1.00 G"


def test_usage(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(benchmark.main, ["--help"])
    assert "\nusage: python -m axialseg benchmark model=<name>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["size=[65,65]"], "model"),
        (["model=axial_deeplap_tiny"], "did you mean model=axial_deeplab_tiny?"),
        ([*TINY, "size=65"], "size=65 is not a size in pixels"),
        ([*TINY, "format=jsn"], "format=jsn does not exist; there are: table, json"),
        ([*TINY, "device=gpu"], "device=gpu does not exist; there are: auto, cpu, cuda"),
        ([*TINY, "device=cuda"], "no GPU is visible; use device=cpu"),
        ([*TINY, "precision=bf16"], "there are: auto, 32-true, bf16-mixed, 16-mixed"),
        ([*TINY, "batch=0"], "batch=0, but it must be 1 or more"),
        ([*TINY, "seconds=-1"], "seconds=-1.0, but it must be 0 or more"),
        ([*TINY, "batches=2"], "did you mean batch?"),
    ],
)
def test_mistakes(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert sentence in refusal(benchmark.main, arguments)


def test_compiling_needs_a_compiler(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    message = refusal(benchmark.main, [*TINY, "compile=true"])
    assert "compile=true needs a C++ compiler, and there is no no-such-compiler" in message
