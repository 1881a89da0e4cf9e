"""CONTRIBUTING.md: its picture is the house, and what it says of five additions is so.

`tests/extension/` is a project of its own that adds one of each: one file and one YAML.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_imports import house

from axialseg.commands import evaluate, train

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "tests/extension"
ADDED = {
    "backbone": "model/backbone=strided_convolutions",
    "stripes": "data=stripes",
    "smooth_loss": "experiments=smooth_centers",
    "segment_count": "callbacks=segment_count",
    "text_logger": "logger=text",
}

Command = Callable[[Callable[[], None], list[str]], None]


def test_the_picture_is_the_house() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"```text\n{house()}```" in text, "run `python tests/test_imports.py`"


def test_each_addition_is_one_file_and_one_yaml_and_is_named() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = {file.stem for file in (EXAMPLE / "mylab").glob("*.py")} - {"__init__"}
    assert files == set(ADDED)
    configs = {str(file.relative_to(EXAMPLE / "conf")) for file in EXAMPLE.rglob("*.yaml")}
    assert configs == {f"{line.replace('=', '/')}.yaml" for line in ADDED.values()}
    for name, line in ADDED.items():
        assert f"mylab/{name}.py" in text
        assert f"conf/{line.replace('=', '/')}.yaml" in text
        assert f"`{line}" in text


def test_a_project_of_ones_own(
    tmp_path: Path, tiny_run: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = tmp_path / "project", tmp_path / "run"
    shutil.copytree(EXAMPLE, project)
    monkeypatch.syspath_prepend(project)
    settings = [line for line in tiny_run if "backbone" not in line and "root" not in line]
    settings = [line for line in settings if "_images" not in line and "max_steps" not in line]
    arguments = ["--config-dir", str(project / "conf"), *settings, "schedule=shapes"]
    arguments += [*ADDED.values(), "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
    command(train.main, [*arguments, f"hydra.run.dir={run}"])

    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert "net.backbone.layers.4.0.weight" in weights
    assert weights["net.semantic_head.predict.weight"].shape[0] == 3  # void, stick, wall
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["name"] for row in metrics["classes"]] == ["stick", "wall"]
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["train/smooth"]) > 0.0 for row in rows if row["train/loss"])
    assert any(float(row["val/segments"] or 0.0) >= 1.0 for row in rows)
    lines = (run / "values.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines if "train/smooth" in line} == {"0", "1"}

    command(evaluate.main, [f"run={run}", "trust=[mylab]", "trainer.limit_val_batches=1"])
    assert (run / "evaluation/metrics.json").is_file()
