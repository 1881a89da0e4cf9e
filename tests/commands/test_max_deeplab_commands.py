"""The commands on MaX-DeepLab: the same callbacks and files as for the other method."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from scoring_cases import assert_repeats

from axialseg.commands import attention, evaluate, train

Command = Callable[[Callable[[], None], list[str]], None]

TERMS = ("pq_mask", "pq_class", "mask_id", "instance_discrimination", "semantic")


@pytest.fixture(scope="module")
def run_folder(tiny_max_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    logging = ["logger=[csv,wandb_offline]", "trainer.log_every_n_steps=1"]
    arguments = [*tiny_max_run, *logging, f"hydra.run.dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *arguments])
        train.main()
    return folder


def test_run_leaves_what_it_promises(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (4, 4)
    assert len(list(run_folder.glob("images/*.png"))) == 4
    for picture in (run_folder / "curves.png", *run_folder.glob("images/*.png")):
        with Image.open(picture) as image:
            assert min(image.size) > 0
    with next(run_folder.glob("**/metrics.csv")).open() as file:
        columns = next(csv.reader(file))
    assert {f"train/{term}" for term in ("loss", *TERMS, "skipped_steps")} <= set(columns)


def test_evaluation_repeats_the_metrics_to_the_last_digit(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    results = tmp_path / "results"
    command(evaluate.main, [f"run={run_folder}", f"output={results}"])
    assert_repeats(results, run_folder)
    listed = json.loads((results / "predictions.json").read_text())["annotations"]
    assert len(listed) == 4
    assert all((results / "predictions" / entry["file_name"]).is_file() for entry in listed)
    assert len(list(results.glob("images/*.png"))) == 4


def test_thresholds_can_be_chosen_in_evaluation(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    void = ["model.postprocess.class_threshold=1.1", f"output={tmp_path}"]
    command(evaluate.main, [f"run={run_folder}", *void])
    assert json.loads((tmp_path / "metrics.json").read_text())["PQ"] == 0.0
    listed = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    assert all(entry["segments_info"] == [] for entry in listed)


def test_resumes_and_starts_from_a_checkpoint(
    run_folder: Path, tiny_max_run: list[str], tmp_path: Path, command: Command
) -> None:
    last = run_folder / "checkpoints/last.ckpt"
    arguments = [*tiny_max_run, "logger=none", "trainer.val_check_interval=6"]
    ways = {"resumed": f"resume={run_folder}", "started": f"model.initial_checkpoint={last}"}
    for name, way in ways.items():
        folder = tmp_path / name
        steps = "trainer.max_steps=6" if name == "resumed" else "trainer.max_steps=1"
        command(train.main, [*arguments, steps, way, f"hydra.run.dir={folder}"])
        content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        assert content["global_step"] == (6 if name == "resumed" else 1)
        assert all(value.isfinite().all() for value in content["state_dict"].values())
    log = (tmp_path / "started/train.log").read_text()
    assert re.search(r"last.ckpt: (\d+) of the model's \1 tensors are loaded", log)


def test_wandb_panels(run_folder: Path) -> None:
    media = next(run_folder.glob("wandb/offline-run-*")) / "files/media"
    for name in ("images", "masks"):
        pictures = list(media.glob(f"images/val/{name}_*.png"))
        assert len(pictures) == 2 * 4  # two validations, four images
    assert len(list(media.glob("table/classes/*.json"))) >= 2


def test_attention_of_a_run(run_folder: Path, tmp_path: Path, command: Command) -> None:
    image = next((run_folder / "images").glob("*.png"))
    output = tmp_path / "drawn.png"
    arguments = [f"image={image}", "query=[5,9]", "layer=stage5.0", f"output={output}"]
    command(attention.main, [f"ckpt={run_folder / 'checkpoints/last.ckpt'}", *arguments])
    with Image.open(output) as picture:
        assert picture.size[0] > 2 * picture.size[1]
