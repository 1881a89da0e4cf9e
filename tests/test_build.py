from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from axialseg.build import (
    build,
    build_evaluation_data,
    build_net,
    build_task,
    build_trainer,
    build_training_data,
)
from axialseg.config.auto import without_auto
from axialseg.config.check import FILLED_IN
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.datasets.image_classes import ImageClasses
from axialseg.datasets.targets import PanopticDeepLabTargets
from axialseg.errors import UserError
from axialseg.machine.hardware import Hardware
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess

CPU = Hardware("cpu", 1, "32-true", 1)


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Composes as a job sees its config."""

    def compose_job(*overrides: str) -> DictConfig:
        register_schemas()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(tmp_path)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return without_auto(cfg)

    return compose_job


class Keeper:
    """Keeps what it is built with."""

    def __init__(self, sizes: list[int], categories: Categories, net: nn.Module) -> None:
        self.sizes = sizes
        self.categories = categories
        self.net = net


def test_arguments_arrive_as_they_are() -> None:
    node = OmegaConf.create({"_target_": f"{__name__}.Keeper", "sizes": [1, 2]})
    net = nn.Linear(2, 2)
    keeper = build(node, categories=COCO, net=net)
    assert type(keeper.sizes) is list
    assert keeper.categories is COCO
    assert keeper.net is net


def test_key_that_an_argument_would_override_is_refused() -> None:
    cfg = OmegaConf.create({"model": {"net": {"_target_": "torch.nn.Identity", "sizes": 3}}})
    with pytest.raises(UserError, match=r"model\.net\.sizes cannot be set"):
        build(cfg.model.net, sizes=4)


@pytest.mark.parametrize(
    "model", ["model=axial_deeplab_tiny", "model=max_deeplab_tiny", "model=axial_resnet_tiny"]
)
def test_check_knows_what_is_filled_in(
    model: str, composed: Any, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, set[str]] = {}

    def recorded(node: DictConfig, **arguments: Any) -> Any:
        given[node._get_full_key("")] = set(arguments)
        return build(node, **arguments)

    monkeypatch.setattr("axialseg.build.build", recorded)
    lines = [line for line in tiny_run if not line.startswith("model")]
    data = ["data=patterns", "schedule=patterns"] if "resnet" in model else lines
    cfg = composed(*data, model)
    classes = ImageClasses(("a",), ("a",)) if "resnet" in model else COCO
    build_training_data(cfg, world_size=1)
    build_task(cfg, classes)
    assert len(given) >= 5
    for path, names in given.items():
        assert names <= set(FILLED_IN.get(path, ())), path


def test_net_follows_the_classes(composed: Any) -> None:
    model = composed("model=axial_deeplab_tiny").model
    with torch.device("meta"):
        net = build_net(model, COCO)
        outputs = net(torch.zeros(1, 3, 33, 33), torch.ones(1, 33, 33, dtype=torch.bool))
    assert outputs.semantic.shape[1] == COCO.semantic_channels == 134


@pytest.mark.parametrize("model", ["axial_deeplab_l", "axial_deeplab_xl", "axial_swidernet_1_1_1"])
def test_large_models_build_on_the_meta_device(model: str, composed: Any) -> None:
    with torch.device("meta"):
        net = build_net(composed(f"model={model}").model, COCO)
        tiny = build_net(composed("model=axial_deeplab_tiny").model, COCO)
    assert sum(p.numel() for p in net.parameters()) > 30e6
    assert type(net.get_submodule("backbone")) is type(tiny.get_submodule("backbone"))


def test_task_has_all_its_parts(composed: Any) -> None:
    cfg = composed("model=axial_deeplab_tiny", "schedule.lr=0.5", "trainer.max_steps=100", "seed=9")
    task = build_task(cfg, COCO)
    assert isinstance(task.postprocess, PanopticDeepLabPostProcess)
    assert task.seed == 9
    assert task.curve(100) == 0.0
    groups = task.parameter_groups(task.net)
    assert {group["lr"] for group in groups} == {0.5}
    assert task.optimizer(groups).param_groups[0]["lr"] == 0.5
    config = task.hparams["config"] if "config" in task.hparams else dict(task.hparams)
    assert config["schedule"]["lr"] == 0.5
    assert not any(OmegaConf.is_config(value) for value in config.values())


def test_task_without_a_schedule(composed: Any) -> None:
    cfg = OmegaConf.create({**composed("model=axial_deeplab_tiny"), "schedule": None})
    assert build_task(cfg, COCO).optimizer is None


def test_training_data_share_the_batch(composed: Any, tiny_run: list[str]) -> None:
    cfg = composed(*tiny_run, "schedule.batch_size=8", "trainer.accumulate_grad_batches=2")
    data = build_training_data(cfg, world_size=2)
    assert data.batch_size == 2
    assert isinstance(data.targets, PanopticDeepLabTargets)
    assert build_evaluation_data(cfg).categories == data.categories


def test_trainer_takes_the_config(composed: Any, tmp_path: Path) -> None:
    cfg = composed(
        "trainer.max_steps=100",
        "trainer.val_check_interval=30",
        "trainer.accumulate_grad_batches=4",
        "trainer.gradient_clip_val=0.5",
        "callbacks.images=null",
        "logger=none",
    )
    trainer = build_trainer(cfg, CPU, tmp_path)
    assert trainer.max_steps == 100
    assert trainer.val_check_interval == 120  # batches
    assert trainer.accumulate_grad_batches == 4
    assert trainer.gradient_clip_val == 0.5
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.loggers == []
    names = {type(callback).__name__ for callback in trainer.callbacks}
    assert "PanopticEvaluation" in names
    assert "PanopticImages" not in names
    assert sum(isinstance(callback, Checkpoint) for callback in trainer.callbacks) == 1


@pytest.mark.parametrize("interval", ["null", "500"])
def test_validates_at_the_end_at_least(interval: str, composed: Any, tmp_path: Path) -> None:
    cfg = composed("trainer.max_steps=20", f"trainer.val_check_interval={interval}")
    if interval == "null":
        cfg.callbacks.last_checkpoint.every_n_steps = 20
    assert build_trainer(cfg, CPU, tmp_path).val_check_interval == 20


def test_a_value_that_a_constructor_refuses_is_named(composed: Any) -> None:
    cfg = composed("model=kmax_tiny", "model.net.pixel_decoder.blocks=[1,1]")
    with pytest.raises(UserError, match=r"model\.net is refused by .*KMaxDeepLab: .* per stage"):
        build_net(cfg.model, COCO)
