"""Every recipe of `conf/schedule/` builds its optimiser, its groups and its curve."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from published_models import model_config
from torch import nn

from axialseg.config.auto import open_settings, without_auto
from axialseg.config.schema import register_schemas
from axialseg.optim.adam import Adam
from axialseg.optim.lookahead import Lookahead

CONF = Path(__file__).resolve().parents[2] / "conf"
# Numbers of the authors' configurations: base rate, warm-up, steps, batch.
RECIPES = {
    "shapes": None,
    "patterns": None,
    "coco": (5e-4, 2000, 200_000, 64),
    "coco_max_deeplab": (1e-3, 5000, 100_000, 64),
    "coco_max_deeplab_paper": (1e-3, 5000, 100_000, 64),
    "coco_kmax": (5e-4, 5000, 150_000, 64),
    "cityscapes_kmax": (3e-4, 5000, 60_000, 32),
    "cityscapes": (1e-4, 0, 60_000, 32),
    "mapillary_vistas": (1e-3, 2000, 150_000, 64),
}


def load(name: str, *overrides: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"schedule/{name}", list(overrides))


def test_every_file_is_tested() -> None:
    files = {file.stem for file in (CONF / "schedule").glob("*.yaml")}
    # base and deeplab are common parts; ImageNet's and that of own data have their own tests.
    assert files - {"base", "deeplab", "imagenet", "own_data"} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds(name: str) -> None:
    cfg = load(name)
    assert set(cfg) - {"model"} == {"schedule", "trainer"}
    schedule = cfg.schedule
    if RECIPES[name] is not None:
        numbers = (schedule.lr, schedule.warmup_steps, cfg.trainer.max_steps, schedule.batch_size)
        assert numbers == RECIPES[name]
    assert cfg.trainer.val_check_interval <= cfg.trainer.max_steps
    groups = instantiate(schedule.parameter_groups)(nn.Linear(2, 2))
    optimizer = instantiate(schedule.optimizer)(groups)
    assert isinstance(optimizer, Lookahead if name.endswith("paper") else Adam)
    assert optimizer.param_groups[0]["lr"] == schedule.lr
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    curve = instantiate(schedule.curve)
    assert curve(cfg.trainer.max_steps) == 0.0
    assert curve(schedule.warmup_steps) > 0.9


@pytest.mark.parametrize("name", ["own_data", "coco_format"])
def test_recipe_of_own_data_builds_when_it_is_chosen(name: str) -> None:
    cfg = load(name)
    chosen = set(open_settings(cfg))
    assert {"schedule.batch_size", "schedule.lr", "trainer.max_steps", "data.crop_size"} <= chosen
    settled = without_auto(cfg)
    groups = instantiate(settled.schedule.parameter_groups)(nn.Linear(2, 2))
    assert groups[0]["lr"] == 1e-3
    assert instantiate(settled.schedule.curve)(settled.trainer.max_steps) == 0.0


def test_imagenet_recipe_is_the_papers() -> None:
    cfg = load("imagenet")
    schedule, steps = cfg.schedule, cfg.trainer.max_steps
    images, batch = 1_281_167, schedule.batch_size
    assert batch == 1024
    assert schedule.lr == pytest.approx(0.1 * batch / 256)
    assert steps * batch / images == pytest.approx(130, rel=1e-3)
    assert schedule.warmup_steps * batch / images == pytest.approx(10, rel=1e-3)
    kernel = nn.Linear(2, 2)
    groups = instantiate(schedule.parameter_groups)(kernel)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [
        (1, 8e-5),
        (1, 0.0),
    ]
    optimizer = instantiate(schedule.optimizer)(groups)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.4, 0.9, True)
    curve = instantiate(schedule.curve)
    assert [curve(step) for step in (0, 6255)] == [0.0, 0.5]
    assert curve(steps // 2) == pytest.approx(0.5)
    assert curve(steps) == pytest.approx(0.0)


def test_one_value_moves_everything_that_follows_from_it() -> None:
    cfg = load("coco", "schedule.lr=0.25", "schedule.warmup_steps=3", "trainer.max_steps=9")
    assert instantiate(cfg.schedule.parameter_groups)(nn.Linear(2, 2))[0]["lr"] == 0.25
    curve = instantiate(cfg.schedule.curve)
    assert (curve(2), curve(9)) == (2 / 3, 0.0)


def test_recipes_of_max_deeplab() -> None:
    cfg, paper = load("coco_max_deeplab"), load("coco_max_deeplab_paper")
    assert cfg.schedule.parameter_groups.backbone_lr_multiplier == 0.1
    assert cfg.schedule.parameter_groups.weight_decay == 0.0
    assert cfg.model.backbone == {"drop_path_keep": 0.8, "drop_path_schedule": "linear"}
    assert paper.model.backbone == {"drop_path_keep": 0.8, "drop_path_schedule": "constant"}
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.ModuleDict({"backbone": backbone, "head": head})
    groups = instantiate(paper.schedule.parameter_groups)(net)
    optimizer = instantiate(paper.schedule.optimizer)(groups)
    facts = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert facts == [(1e-3, 1e-4), (1e-3, 0.0), (1e-4, 1e-4), (1e-4, 0.0)]
    assert all(group["decoupled_weight_decay"] for group in optimizer.param_groups)
    assert (optimizer.sync_period, optimizer.slow_step) == (5, 0.5)
    before = backbone.weight.detach().clone()
    net["head"](backbone(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    assert not torch.equal(backbone.weight, before)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        # Of the first two blocks of stages 2 to 5; the first ones' input is at the stride before.
        ("linear", [1.0, 0.95, 0.95, 0.9, 0.9, 0.85, 0.85, 0.8]),
        ("constant", [1.0, *[0.8] * 7]),
        ("none", [1.0] * 8),
    ],
)
def test_drop_path_is_a_choice(choice: str, expected: list[float]) -> None:
    node = load("coco", f"schedule/drop_path={choice}").model.backbone
    backbone = OmegaConf.merge(model_config(("model=axial_swidernet_1_1_1",)).backbone, node)
    with torch.device("meta"):
        stages = instantiate(backbone).stages
    blocks = [stages[f"stage{stage}"][index] for stage in range(2, 6) for index in (0, 1)]
    assert [block.drop_path.keep_probability for block in blocks] == pytest.approx(expected)
    assert all(block.drop_path.keep_probability == 1.0 for block in stages["stage1"])
