"""The commands on kMaX-DeepLab: the same files and pictures as for the other methods."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from scoring_cases import assert_repeats

from axialseg.commands import attention, evaluate, predict, train

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.fixture(scope="module")
def lines(tiny_run: list[str]) -> list[str]:
    """Overrides of a run of a second or two."""
    others = [line for line in tiny_run if not line.startswith(("model", "trainer"))]
    return [
        *others,
        "model=kmax_tiny",
        "model.backbone.stage_blocks=[1,1,1,1]",
        "model.backbone.stage_channels=[16,16,32,32]",
        "model.net.slots=16",
        "model.net.transformer.feed_forward_channels=16",
        "trainer.max_steps=2",
        "trainer.log_every_n_steps=1",
    ]


@pytest.fixture(scope="module")
def run_folder(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *lines, f"hydra.run.dir={folder}"])
        train.main()
    return folder


@pytest.fixture
def picture(run_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    with Image.open(sorted(run_folder.glob("images/*.png"))[0]) as image:
        image.convert("RGB").resize((60, 40)).save(file)
    return file


def test_run_and_evaluation(run_folder: Path, tmp_path: Path, command: Command) -> None:
    assert len(list(run_folder.glob("images/*.png"))) == 4
    with (run_folder / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    terms = ("pq_mask", "pq_class", "mask_id", "instance_discrimination")
    assert {f"train/{aux}{term}" for term in terms for aux in ("", "aux_")} <= set(columns)
    command(evaluate.main, [f"run={run_folder}", f"output={tmp_path / 'results'}"])
    assert_repeats(tmp_path / "results", run_folder)


def test_prediction(run_folder: Path, picture: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    command(predict.main, [f"ckpt={run_folder}", f"images={picture}", f"out={out}"])
    with Image.open(out / "picture_overlay.jpg") as overlay:
        assert overlay.size[0] * 40 == overlay.size[1] * 60
    assert len(json.loads((out / "picture.json").read_text())["images"]) == 1


def test_attention(run_folder: Path, picture: Path, command: Command, refusal: Refusal) -> None:
    """Axial layers have maps, of the backbone and the pixel decoder; k-means layers have none."""
    output = picture.with_name("attention.png")
    query = [f"ckpt={run_folder / 'checkpoints/last.ckpt'}", f"image={picture}", "query=[5,50]"]
    command(attention.main, [*query, "layer=pixel_decoder.stages.1.blocks.0", f"output={output}"])
    assert output.is_file()
    message = refusal(attention.main, [*query, "layer=transformers.0", "output=none.png"])
    assert "layer=transformers.0 is not a layer of this model; name one of backbone" in message


def test_start_with_other_classes(
    run_folder: Path, lines: list[str], tmp_path: Path, command: Command
) -> None:
    """The k-means layers tell classes too; all else is taken."""
    start = [f"model.initial_checkpoint={run_folder}", "data.classes.drop=[ring]"]
    folder = tmp_path / "started"
    command(train.main, [*lines, *start, "trainer.max_steps=1", f"hydra.run.dir={folder}"])
    log = (folder / "train.log").read_text()
    assert "[9, 64, 1, 1] in the model): transformers 3, heads.class_head 1" in log
