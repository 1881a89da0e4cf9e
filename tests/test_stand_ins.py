"""One real step and evaluation of each kind of published row, on small data of its own format.

The recipe is the row's: its optimiser, rates, losses, augmentation and post-processing. The model
is the tiny one of its family, and images and crops are small.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from official_trees import TREES
from recipe_table import heads

from axialseg.commands import evaluate, train

Command = Callable[[Callable[[], None], list[str]], None]

TINY = ["model.backbone.stage_blocks=[1,1,1,1]", "model.backbone.stage_channels=[16,16,32,32]"]
TINY_WINDOW = [
    *("model.backbone.attention_2d.heads=2", "model.backbone.attention_2d.window=3"),
    "model.backbone.stem.width=0.25",
]
# Family of models -> its stand-in.
STAND_INS = {
    "panoptic_deeplab": ["model=axial_deeplab_tiny", *TINY],
    "max_deeplab": [
        *("model=max_deeplab_tiny", *TINY),
        "model.net.transformer.feed_forward_channels=16",
        "model.net.slots=16",
    ],
    "kmax": [
        *("model=kmax_tiny", *TINY),
        "model.net.transformer.feed_forward_channels=16",
        "model.net.slots=16",
    ],
    "axial_resnet": ["model=axial_resnet_tiny", *TINY],
    "attention_deeplab": ["model=ps_attention_deeplab", *TINY, *TINY_WINDOW],
    "attention_resnet": [
        *("model=attention_resnet_50", *TINY, *TINY_WINDOW),
        "model/stem@model.backbone.stem=attention",
        "model.backbone.max_pool=false",
    ],
}
# One row for each family and format that a published row has.
ROWS = {
    ("panoptic_deeplab", "cityscapes"): "cityscapes/axial_swidernet_1_1_1",
    ("panoptic_deeplab", "coco"): "coco/axial_deeplab_s",
    ("panoptic_deeplab", "mapillary_vistas"): "mapillary_vistas/axial_deeplab_l",
    ("max_deeplab", "coco"): "coco/max_deeplab_s_641",
    ("kmax", "coco"): "coco/kmax_axial_r50",
    ("kmax", "cityscapes"): "cityscapes/kmax_axial_r50",
    ("axial_resnet", "imagenet"): "imagenet/axial_resnet_50_s",
    ("attention_deeplab", "cityscapes"): "cityscapes/attention_ablation",
    ("attention_resnet", "imagenet"): "imagenet/attention_resnet_50_standalone",
}
OPTIONS = [
    "callbacks=ema",
    "trainer.gradient_clip_val=1.0",
    "schedule.parameter_groups.layer_decay=0.5",
]


def kind(name: str) -> tuple[str, str]:
    """Family and format of an experiment."""
    data, model = name.split("/")
    if "attention" in model:
        return ("attention_resnet" if data == "imagenet" else "attention_deeplab"), data
    if data == "imagenet":
        return "axial_resnet", data
    if model.startswith("kmax"):
        return "kmax", data
    is_max = data == "coco" and model.startswith("max_deeplab")
    return ("max_deeplab" if is_max else "panoptic_deeplab"), data


def test_each_kind_of_row_has_a_stand_in() -> None:
    published = [name for name in heads() if name.split("/")[0] not in ("shapes", "patterns")]
    assert {kind(name) for name in published} == set(ROWS)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of each data set."""
    made = {}
    for name, write in TREES.items():
        made[name] = tmp_path_factory.mktemp(name)
        write(made[name])
    return made


def small(family: str, data: str, root: Path, steps: int) -> list[str]:
    """What makes a row's run take a second."""
    crop = [32, 32] if data == "imagenet" else [33, 65]
    is_ranged = data in ("coco", "mapillary_vistas")
    resized = [f"data.{half}_transform.resize_range=[33,33]" for half in ("train", "eval")]
    return [
        *STAND_INS[family],
        "model.initial_checkpoint=null",
        f"data.root={root}",
        f"data.crop_size={crop}".replace(" ", ""),
        f"data.eval_size={crop}".replace(" ", ""),
        *(resized if is_ranged else []),
        "data.num_workers=0",
        "data.val_num_workers=0",
        "hardware=cpu",
        "schedule.batch_size=2",
        "schedule.warmup_steps=0",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "callbacks.images=null",
        "callbacks.diagnosis=null",
        "callbacks.curves=null",
    ]


def run(name: str, root: Path, folder: Path, command: Command, *more: str, steps: int = 1) -> Any:
    """Trains a little; gives the checkpoint."""
    lines = [f"experiments={name}", *small(*kind(name), root, steps), f"hydra.run.dir={folder}"]
    command(train.main, [*lines, *more])
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(("family", "data"), ROWS)
def test_a_step_and_an_evaluation(
    family: str, data: str, roots: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    name = ROWS[family, data]
    checkpoint = run(name, roots[data], tmp_path, command, "trainer.limit_val_batches=0")
    assert checkpoint["global_step"] == 1
    (optimizer,) = checkpoint["optimizer_states"]
    assert optimizer["state"]  # a step whose loss is not finite would have been left out
    config = yaml.safe_load((tmp_path / ".hydra/config.yaml").read_text())
    assert config["model"]["name"] == STAND_INS[family][0].partition("=")[2]

    quiet = ["callbacks.images=null", "callbacks.diagnosis=null"]
    command(evaluate.main, [f"run={tmp_path}", "trainer.limit_val_batches=null", *quiet])
    record = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert record["step"] == 1
    assert 0 <= record[config["model"]["objective"]] <= 100
    assert (tmp_path / "evaluation/predictions.json").is_file() or data == "imagenet"


def test_options_of_any_recipe(roots: dict[str, Path], tmp_path: Path, command: Command) -> None:
    row = "coco/max_deeplab_s_641"
    checkpoint = run(row, roots["coco"], tmp_path, command, *OPTIONS, steps=2)
    # Validated and stored is the average, which begins with the first step's weights.
    averaged, trained = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert any(not torch.equal(averaged[key], trained[key]) for key in averaged if key in trained)
    rates = {group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert len(rates) == 1 + 5  # the heads', those of four blocks and of the stem
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 2


def test_imagenet_then_vistas_then_cityscapes(
    roots: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    """Each stage names the folder of the one before; what does not fit begins anew, and is told."""
    stages = {
        "imagenet": "imagenet/axial_resnet_50_s",
        "mapillary_vistas": "mapillary_vistas/axial_deeplab_l",
        "cityscapes": "cityscapes/axial_deeplab_l_mapillary",
    }
    before = ["model/stem@model.backbone.stem=inception"]
    for data, row in stages.items():
        run(row, roots[data], tmp_path / data, command, *before, "trainer.limit_val_batches=0")
        before = [f"model.initial_checkpoint={tmp_path / data}"]
    vistas, cityscapes = (
        (tmp_path / data / "train.log").read_text() for data in ("mapillary_vistas", "cityscapes")
    )
    assert "imagenet/checkpoints/last.ckpt: 193 of the model's 289 tensors are loaded" in vistas
    assert "loaded: backbone.stem 15, backbone.stages 178\n" in vistas
    assert "mapillary_vistas/checkpoints/last.ckpt: 287 of the model's 289 tensors" in cityscapes
    anew = [line for line in cityscapes.splitlines() if "left at initialisation" in line]
    assert [line.split()[3] for line in anew] == [
        f"semantic_head.predict.{part}" for part in ("weight", "bias")
    ]
    assert all("another number of classes" in line for line in anew)
