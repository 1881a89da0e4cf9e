"""`python evaluate.py` for each family: batches change nothing; scales, mirrored images, tiles."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_models import model_config

from axialseg.build import build_net
from axialseg.commands import evaluate
from axialseg.datasets.generated.shape_scenes import CATEGORIES

Command = Callable[[Callable[[], None], list[str]], None]

SMALL = ("model.backbone.stage_blocks=[1,1,1,1]", "model.backbone.stage_channels=[16,16,32,32]")
# Networks that have learnt nothing are sure of nothing; with these limits their segments are there.
FAMILIES = {
    "axial_deeplab_tiny": {"center_threshold": 0, "stuff_area_limit": 1},
    "max_deeplab_tiny": {"class_threshold": 0, "pixel_threshold": 0, "thing_area_limit": 1},
    "kmax_tiny": {
        **{"thing_threshold": 0, "stuff_threshold": 0, "pixel_threshold": 1 / 24},
        **{"overlap_threshold": 0, "thing_area_limit": 1, "stuff_area_limit": 1},
    },
}


@pytest.fixture(scope="module")
def arguments(
    request: pytest.FixtureRequest, tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Of an evaluation of each family, with random weights that see something everywhere."""
    slots = ["model.net.slots=24"] if request.param == "kmax_tiny" else []
    overrides = (f"model={request.param}", *slots, *SMALL)
    net = build_net(model_config(overrides), CATEGORIES)
    torch.manual_seed(0)
    for value in net.parameters():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value.data.flatten(1))
    path = tmp_path_factory.mktemp("random") / "random.ckpt"
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights}, path)
    limits = [f"model.postprocess.{name}={v}" for name, v in FAMILIES[request.param].items()]
    data = [line for line in tiny_run if "data." in line]
    fast = ["callbacks.images=null", "callbacks.diagnosis=null", "hardware=cpu"]
    return [f"ckpt={path}", "data=shapes", *data, *overrides, *limits, *fast]


def segments_of(folder: Path) -> list[int]:
    """How many segments each image has."""
    rows = json.loads((folder / "predictions.json").read_text())["annotations"]
    return [len(row["segments_info"]) for row in rows]


def scores_taken_out(folder: Path) -> tuple[list[float], dict]:
    """The scores of all segments, and all else that the predictions hold."""
    predictions = json.loads((folder / "predictions.json").read_text())
    segments = [s for row in predictions["annotations"] for s in row["segments_info"]]
    return [segment.pop("score") for segment in segments], predictions


@pytest.mark.parametrize("arguments", FAMILIES, indirect=True)
def test_batch_and_padding_change_nothing(
    arguments: list[str], tmp_path: Path, command: Command
) -> None:
    one, four = tmp_path / "1", tmp_path / "4"
    for folder in (one, four):
        command(
            evaluate.main, [*arguments, f"data.val_batch_size={folder.name}", f"output={folder}"]
        )
    images = json.loads((one / "predictions.json").read_text())["images"]
    assert len({(row["height"], row["width"]) for row in images}) > 1
    assert sum(segments_of(one)) > 8
    for name in ("metrics.json", "classes.csv"):
        assert (one / name).read_text() == (four / name).read_text()
    scores = [scores_taken_out(folder) for folder in (one, four)]
    # The library's kernels depend on the batch, and so may the last bit of a score.
    assert scores[0][0] == pytest.approx(scores[1][0], rel=2**-22)
    assert scores[0][1] == scores[1][1]
    for path in (one / "predictions").iterdir():
        assert path.read_bytes() == (four / "predictions" / path.name).read_bytes()


@pytest.mark.parametrize("arguments", ["kmax_tiny"], indirect=True)
@pytest.mark.parametrize(
    "view", [["scales=[0.5,1]", "flip=true"], ["tile=[33,33]", "data.crop_size=[65,65]"]]
)
def test_scales_and_tiles(
    view: list[str], arguments: list[str], tmp_path: Path, command: Command
) -> None:
    command(evaluate.main, [*arguments, *view, f"output={tmp_path}"])
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["images"] == 4
    assert 0 <= record["PQ"] <= 100
    assert sum(segments_of(tmp_path)) > 8
