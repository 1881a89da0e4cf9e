"""Every recipe of `conf/schedule/` builds its optimiser, its groups and its curve."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from axialseg.optim.adam import Adam

CONF = Path(__file__).resolve().parents[2] / "conf"
# Numbers of the authors' configurations: base rate, warm-up, steps, batch.
RECIPES = {
    "shapes": None,
    "coco": (5e-4, 2000, 200_000, 64),
    "coco_format": (5e-4, 2000, 50_000, 64),
    "cityscapes": (1e-4, 0, 60_000, 32),
    "mapillary_vistas": (1e-3, 2000, 150_000, 64),
}


def load(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"schedule/{name}", list(overrides))


def test_every_file_is_tested() -> None:
    files = {file.stem for file in (CONF / "schedule").glob("*.yaml")}
    assert files - {"deeplab"} == set(RECIPES)  # deeplab is their common part


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds(name: str) -> None:
    cfg = load(name)
    assert set(cfg) == {"schedule", "trainer"}
    schedule = cfg.schedule
    if RECIPES[name] is not None:
        numbers = (schedule.lr, schedule.warmup_steps, cfg.trainer.max_steps, schedule.batch_size)
        assert numbers == RECIPES[name]
    assert cfg.trainer.val_check_interval <= cfg.trainer.max_steps
    groups = instantiate(schedule.parameter_groups)(nn.Linear(2, 2))
    optimizer = instantiate(schedule.optimizer)(groups)
    assert isinstance(optimizer, Adam)
    assert optimizer.param_groups[0]["lr"] == schedule.lr
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    curve = instantiate(schedule.curve)
    assert curve(cfg.trainer.max_steps) == 0.0
    assert curve(schedule.warmup_steps) > 0.9


def test_one_value_moves_everything_that_follows_from_it() -> None:
    cfg = load("coco", "schedule.lr=0.25", "schedule.warmup_steps=3", "trainer.max_steps=9")
    assert instantiate(cfg.schedule.parameter_groups)(nn.Linear(2, 2))[0]["lr"] == 0.25
    curve = instantiate(cfg.schedule.curve)
    assert (curve(2), curve(9)) == (2 / 3, 0.0)
