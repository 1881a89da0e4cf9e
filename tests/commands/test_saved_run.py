"""Runs of earlier versions, whose configs hold names of then, still evaluate."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from axialseg.build import build_net
from axialseg.commands import evaluate
from axialseg.commands.saved_run import saved_run
from axialseg.datasets.generated.shape_scenes import CATEGORIES

Command = Callable[[Callable[[], None], list[str]], None]

EARLIER = Path(__file__).parents[1] / "goldens/earlier_run.yaml"


@pytest.fixture
def earlier_run(tmp_path: Path) -> Path:
    """The folder of such a run, with a checkpoint of the network that its config describes."""
    folder = tmp_path / "run"
    for name in (".hydra", "checkpoints"):
        (folder / name).mkdir(parents=True)
    text = EARLIER.read_text().replace("ROOT", str(tmp_path / "shapes"))
    (folder / ".hydra/config.yaml").write_text(text)
    _, saved = saved_run([f"run={folder}"], ("model",))
    net = build_net(OmegaConf.create(saved).model, CATEGORIES)
    assert sum(weight.numel() for weight in net.parameters()) == 68_709
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 4}, folder / "checkpoints/last.ckpt")
    return folder


def test_run_of_an_earlier_version_evaluates(earlier_run: Path, command: Command) -> None:
    command(evaluate.main, [f"run={earlier_run}", "hardware=cpu"])
    own = json.loads((earlier_run / "evaluation/metrics.json").read_text())
    assert own["step"] == 4
    # Its model has decided how attention is computed; the command line may decide anew.
    arguments = [f"run={earlier_run}", "hardware=cpu", f"output={earlier_run}/again"]
    command(evaluate.main, [*arguments, "model/attention=reference"])
    assert json.loads((earlier_run / "again/metrics.json").read_text())["PQ"] == own["PQ"]


@pytest.mark.parametrize("attention", ["lean", "reference", "textbook", "triton"])
def test_attention_of_a_run_is_replaced_not_mixed(attention: str, earlier_run: Path) -> None:
    choice = f"model/attention={attention}"
    _, saved = saved_run([f"run={earlier_run}", choice], ("model",))
    assert "attention" not in saved["model"]
    layer = saved["model"]["backbone"]["attention"]
    assert layer["_target_"] == "${model.attention.layer}"
    assert (layer["heads"], layer["span"]) == (4, None)
