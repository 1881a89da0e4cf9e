"""The rate follows another batch only if the user asks, and from the recipe's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from axialseg.commands import train
from axialseg.commands.scaled_rate import scaled_rate, scales_rate
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.errors import UserError

Command = Callable[[Callable[[], None], list[str]], None]


@contextmanager
def composed(*lines: str) -> Iterator[DictConfig]:
    """Within the block Hydra is as in a job."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["schedule.scale_lr=true", *lines], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        yield cfg


def scaled(*lines: str) -> tuple[float, str]:
    with composed(*lines) as cfg:
        row = scaled_rate(cfg)
    assert row["key"] == "schedule.lr"
    return row["value"], row["reason"]


def test_half_the_batch_has_half_the_rate() -> None:
    rate, reason = scaled("experiments=coco/max_deeplab_s_641", "schedule.batch_size=32")
    assert rate == 5e-4
    assert reason == "schedule.scale_lr=true: 0.001 for the recipe's 64 images, times 32 / 64"


def test_the_batch_is_the_files_own() -> None:
    assert scaled("data=cityscapes", "schedule.batch_size=8")[0] == 2.5e-5
    row = "experiments=cityscapes/panoptic_deeplab_resnet50"  # 2.5e-4 for 8 images
    assert scaled(row, "++schedule.batch_size=32")[0] == 1e-3
    assert scaled(row, "schedule.batch_size=32", "schedule.lr=1e-3")[0] == 4e-3
    assert scaled(row) == (
        2.5e-4,
        "schedule.scale_lr=true: 0.00025 for the recipe's 8 images, the batch here too",
    )


def test_a_recipe_without_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="needs a recipe that states its batch"):
        scaled("data=coco_format", "data.root=x", "schedule.lr=1e-3", "schedule.batch_size=4")


def test_a_chosen_rate_follows_the_batch_anyway() -> None:
    with composed("data=coco_format", "data.root=x") as cfg:
        assert not scales_rate(cfg)


def test_the_command_says_it_and_stores_it(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    lines = [line for line in tiny_run if "max_steps" not in line]
    more = ["trainer.max_steps=1", "callbacks.images=null", f"hydra.run.dir={tmp_path}"]
    command(train.main, [*lines, *more, "schedule.scale_lr=true"])
    said = (tmp_path / "train.log").read_text()
    assert "schedule.lr=0.001875  (schedule.scale_lr=true: 0.015 for the recipe's 16 ima" in said
    assert "Batch: 2 images = 1 device x 2 in a pass x 1 pass" in said
    stored = yaml.safe_load((tmp_path / ".hydra/config.yaml").read_text())
    assert stored["schedule"]["lr"] == 0.001875
    assert stored["trainer"]["accumulate_grad_batches"] == 1
