"""The commands of docs/own_data.md work as they stand there, shortened."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_tree import write_tree
from hydra._internal.utils import get_args_parser

from axialseg.commands import check_data, evaluate, memory, train
from axialseg.commands.command_line import check_command_line
from axialseg.config.schema import register_schemas

PAGE = Path(__file__).resolve().parents[1] / "docs/own_data.md"
COMMANDS = re.findall(r"^    (python .+)$", PAGE.read_text(), re.MULTILINE)
TRAINED = [line for line in COMMANDS if line.startswith("python train.py")]
FROM_CHECKPOINT = [line for line in TRAINED if "initial_checkpoint" in line]
SHORT = [
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
    "hardware=cpu",
    "trainer.max_steps=2",
]

Command = Callable[[Callable[[], None], list[str]], None]


def arguments(line: str) -> list[str]:
    return shlex.split(line)[2:]


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path / "photos", ("train",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_is_one_of_these() -> None:
    others = [line for line in COMMANDS if line not in TRAINED]
    starts = sorted({" ".join(line.split()[:4]) for line in others})
    assert starts == [
        "python -m axialseg check-data",
        "python -m axialseg memory",
        "python evaluate.py run=outputs/axial_hybrid_tiny_coco_format/<time>",
    ]
    assert len(FROM_CHECKPOINT) == 3


@pytest.mark.usefixtures("photographs")
def test_check_data(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in COMMANDS if "check-data" in line]
    command(check_data.main, arguments(line)[2:])
    assert "Training can start: no errors." in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in TRAINED if line not in FROM_CHECKPOINT])
def test_training(line: str, photographs: Path, command: Command) -> None:
    given = [a for a in arguments(line) if not a.startswith("trainer.max_steps")]
    command(train.main, [*given, *SHORT])
    (run,) = (photographs / "outputs/axial_hybrid_tiny_coco_format").iterdir()
    assert (run / "checkpoints/last.ckpt").is_file()
    is_validated = "val_dataset=null" not in line
    for name in ("images.csv", "metrics.json", "checkpoints/best.ckpt", "images/worst"):
        assert (run / name).exists() == is_validated, name
    if line == TRAINED[0]:
        (scored,) = [line for line in COMMANDS if line.startswith("python evaluate.py")]
        shown = str(run.relative_to(photographs))
        command(evaluate.main, [f"run={shown}"])
        assert arguments(f"x {scored}")[-1].startswith("run=outputs/axial_hybrid_tiny_coco_format")
        assert (run / "evaluation/metrics.json").is_file()


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize("line", FROM_CHECKPOINT)
def test_fine_tuning_is_a_valid_command(line: str) -> None:
    register_schemas()
    args = get_args_parser().parse_args(arguments(line))
    check_command_line("train", args, train.check_training)


@pytest.mark.parametrize("line", [line for line in COMMANDS if "axialseg memory" in line])
def test_planner(line: str, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    counted = []
    monkeypatch.setattr(memory, "_plan", lambda *rest: counted.append(rest[1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the count itself takes long
        command(memory.main, arguments(line)[2:])
    assert len(counted) == 1
