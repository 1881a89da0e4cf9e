"""An evaluation beside what was published: the row, the table, the exit code, the download."""

from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import unwrapped

from axialseg.commands import evaluate, train
from axialseg.commands.expected_scores import comparison, matching_row, refuse_other_scores
from axialseg.config.experiment_head import ExpectedScores, experiment_head
from axialseg.errors import OtherScoreError, UserError

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

HEAD = """# @package _global_
# what: four steps
# source: this test
# train: python train.py
# evaluate: python evaluate.py
# hardware: a CPU
# batch: 4
# steps: 4
# expected:
#   - {PQ: PQ_HERE, AP: 5.0}
#   - {with: +tta=ms_flip, PQ: 99.0}
#   - {split: test, PQ: 98.0}
"""


def row(pq: float, *overrides: str, steps: int = 100, ckpt: str | None = None) -> ExpectedScores:
    return ExpectedScores(overrides, steps, "val", ckpt, {"PQ": pq}, {}, {})


ROWS = [row(1.0, ckpt="a"), row(2.0, steps=200, ckpt="b"), row(3.0, "+tta=ms_flip")]


@pytest.mark.parametrize(
    ("ckpt", "steps", "overrides", "pq"),
    [
        ("a", 0, [], 1.0),
        ("b", 0, ["ckpt=b", "data.root=x"], 2.0),
        ("last.ckpt", 200, [], 2.0),
        ("last.ckpt", 7, [], 1.0),
        ("b", 100, ["+tta=ms_flip"], 3.0),
    ],
)
def test_the_row_that_is_meant(ckpt: str, steps: int, overrides: list[str], pq: float) -> None:
    found = matching_row(ROWS, ckpt, steps, overrides)
    assert found is not None
    assert found.scores["PQ"] == pq


def test_no_row_is_meant() -> None:
    spans = [row(1.0, "span=5"), row(2.0, "span=9")]
    assert matching_row(spans, None, 100, []) is None
    assert matching_row(spans, None, 100, ["span=9"]) is spans[1]


def test_table() -> None:
    expected = ExpectedScores((), 100, "val", None, {"PQ": 66.1, "AP": 40.0}, {}, {})
    lines = comparison(expected, {"PQ": 65.958, "mIoU": 80.0}).splitlines()
    assert lines[1].split() == ["PQ", "66.1", "65.96", "-0.14"]
    assert lines[2].split() == ["AP", "40.0", "-", "-"]


@pytest.mark.parametrize(("measured", "passes"), [(66.4, True), (65.8, True), (66.41, False)])
def test_tolerance(measured: float, passes: bool) -> None:
    if passes:
        refuse_other_scores(row(66.1), {"PQ": measured}, 0.3)
    else:
        with pytest.raises(OtherScoreError, match=r"beyond tolerance=0\.3: PQ 66\.41 \(expected"):
            refuse_other_scores(row(66.1), {"PQ": measured}, 0.3)
    with pytest.raises(UserError, match="nothing to compare: PQ not measured"):
        refuse_other_scores(row(66.1), {"mIoU": measured}, 0.3)


def test_a_head_that_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# @package _global_\n# My run: as before: twice.\nseed: 1\n")
    assert experiment_head(file) is None
    file.write_text("# @package _global_\n# expected: [{PQ: 1.0}]\nseed: 1\n")
    with pytest.raises(UserError, match=r"the head of .*mine\.yaml is not whole"):
        experiment_head(file)


@pytest.fixture(scope="module")
def run(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *tiny_run, f"hydra.run.dir={folder}"])
        train.main()
    return folder


def test_evaluation_compares(
    run: Path,
    project: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from axialseg.commands import expected_scores

    monkeypatch.setattr(expected_scores, "conf_dir", lambda: project / "conf")
    monkeypatch.setenv("AXIALSEG_ROOT", str(project))
    row_file = project / "experiments/mine.yaml"
    line = [f"run={run}", "experiments=mine", "callbacks.images=null"]

    row_file.write_text(HEAD.replace("PQ_HERE", "0.0"))
    command(evaluate.main, [*line, "tolerance=100"])
    said = capsys.readouterr()
    assert "published after 4 steps, measured after 4" in said.out + said.err
    assert "difference" in said.out + said.err

    row_file.write_text(HEAD.replace("PQ_HERE", "90.0"))
    with pytest.raises(SystemExit) as stopped:
        command(evaluate.main, [*line, "tolerance=0.3"])
    assert stopped.value.code == 3
    assert "error: beyond tolerance=0.3: PQ " in unwrapped(capsys.readouterr().err)


def test_tolerance_without_a_published_row(
    run: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(evaluate.main, [f"run={run}", "tolerance=0.3"])
    assert stopped.value.code == 2
    assert "experiments=none has none" in unwrapped(capsys.readouterr().err)
