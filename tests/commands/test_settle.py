"""What is chosen before training, that it is stored, and what is refused or doubted."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from coco_tree import write_tree
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_config import config

from axialseg.commands import evaluate, train
from axialseg.commands import settle as settle_module
from axialseg.config.auto import open_settings, without_auto
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.errors import UserError
from axialseg.machine.hardware import Hardware

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]
TINY = [
    "hardware=cpu",
    "model=axial_hybrid_tiny",
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    write_tree(tmp_path / "photographs", ("train",))
    return tmp_path / "photographs"


@pytest.fixture
def own(photographs: Path) -> list[str]:
    where = [f"data.root={photographs}", "data.val_share=0.2"]
    return ["data=coco_format", *where, *TINY, "trainer.max_steps=2", "callbacks.images=null"]


def composed(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / ".hydra/config.yaml").read_text())


def test_choices_are_said_stored_and_kept(
    own: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command(train.main, [*own, f"hydra.run.dir={run}", "schedule.lr=0.001"])
    said = (run / "train.log").read_text()
    config = composed(run)
    assert said.index("Looking at the images and the machine") < said.index("Chosen for these")
    assert "data.crop_size=[33,33]  (two thirds of 24x40" in said
    assert config["data"]["crop_size"] == [33, 33]
    assert config["schedule"]["batch_size"] == 4  # as many images as there are
    assert config["schedule"]["lr"] == 0.001
    assert "schedule.lr=" not in said
    assert len(config["model"]["loss"]["class_weights"]) == 4
    assert config["trainer"]["accumulate_grad_batches"] == 1
    assert "trainer.accumulate_grad_batches=1  (4 images of 33x33 are little" in said
    assert open_settings(OmegaConf.create(config)) == []
    keys = [row["key"] for row in yaml.safe_load((run / ".hydra/chosen.yaml").read_text())]
    assert "schedule.batch_size" in keys
    assert "schedule.lr" not in keys
    assert json.loads((run / "metrics.json").read_text())["images"] == 1

    # Another machine has other rules, but a run keeps its numbers.
    monkeypatch.setattr(settle_module, "cpu_count", lambda: 64)
    monkeypatch.setattr("axialseg.recipes.own_data.CPU_BATCH", 2)
    resumed = tmp_path / "resumed"
    more = [*own[:-2], "callbacks.images=null", "trainer.max_steps=3", f"resume={run}"]
    command(train.main, [*more, f"hydra.run.dir={resumed}", "schedule.lr=0.001"])
    assert composed(resumed)["schedule"] == config["schedule"]
    assert composed(resumed)["data"]["num_workers"] == config["data"]["num_workers"]
    assert (resumed / ".hydra/chosen.yaml").read_text() == (run / ".hydra/chosen.yaml").read_text()


CALLS = {"_target_": "os.system", "command": "true"}


@pytest.mark.parametrize("value", [CALLS, [CALLS], "${oc.env:HOME}"])
def test_what_a_stranger_has_chosen_is_plain(
    value: Any,
    own: list[str],
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "strangers/.hydra/chosen.yaml"
    file.parent.mkdir(parents=True)
    row = {"key": "model.loss.class_weights", "value": value, "reason": ""}
    file.write_text(yaml.safe_dump([row]))
    resume = f"resume={tmp_path / 'strangers'}"
    with pytest.raises(SystemExit):
        command(train.main, [*own, resume, f"hydra.run.dir={tmp_path / 'run'}"])
    said = f"error: {file} does not hold what a run has chosen; copy it again, or delete it"
    assert " ".join(capsys.readouterr().err.split()) == said


def test_training_without_a_validation(
    own: list[str], tmp_path: Path, command: Command, refusal: Refusal
) -> None:
    run = tmp_path / "run"
    lines = [line for line in own if "val_share" not in line]
    command(train.main, [*lines, "data.val_dataset=null", f"hydra.run.dir={run}"])
    assert not (run / "metrics.json").exists()
    assert (run / "checkpoints/last.ckpt").is_file()
    assert composed(run)["schedule"]["batch_size"] == 5
    assert f"run={os.path.relpath(run)} images=<folder>" in (run / "train.log").read_text()
    assert "give images=<folder of pictures>" in refusal(evaluate.main, [f"run={run}"])


def test_images_with_too_many_things_are_said(
    own: list[str], tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    few = "model.postprocess.keep_centers=1"
    command(train.main, [*own, few, "trainer.max_steps=1", f"hydra.run.dir={run}"])
    said = (run / "train.log").read_text()
    assert "An image holds 2 things, and model.postprocess.keep_centers=1 finds no more" in said


def test_ranks_that_torchrun_starts_choose_alike(
    own: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "axialseg")
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        line = [*own, "trainer.devices=2", "trainer.accelerator=cpu"]
        ranks = [compose("train", line) for _ in range(2)]
    overrides = SimpleNamespace(overrides=SimpleNamespace(task=line))
    monkeypatch.setattr(settle_module.HydraConfig, "get", lambda: overrides)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, cores in ((1, 2), (0, 64)):  # whichever comes first; machines may differ
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(settle_module, "cpu_count", lambda cores=cores: cores)
        settle_module.settle(ranks[rank], tmp_path)
    assert ranks[0] == ranks[1]
    assert open_settings(ranks[0]) == []
    assert ranks[0].schedule.batch_size == 4  # of two devices
    assert composed(tmp_path)["schedule"]["batch_size"] == 4
    assert len([line for line in caplog.messages if line.startswith("Chosen for")]) == 1


@pytest.mark.parametrize("data", ["cityscapes", "mapillary_vistas", "coco_format"])
def test_validation_images_of_ones_own_keep_their_size(data: str) -> None:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"data={data}", "schedule=own_data"])
    cfg.data.crop_size, cfg.data.train_transform.resize_range = [33, 49], None
    assert cfg.data.eval_size == [33, 49]  # and not a published one, to which they were padded
    assert cfg.data.eval_transform.resize_range is None


def settler(cfg: Any, needed: int, accumulated: int | None) -> Any:
    from axialseg.costs.fit import Fit

    found = settle_module._Settler(cfg, Hardware("cpu", 1, "32-true", 1))
    found._fit = lambda: Fit(needed, 22 * 2**30, accumulated)  # type: ignore[method-assign]
    return found


def test_what_does_not_fit_is_refused_with_what_does() -> None:
    cfg = config(batch_size=64)
    with pytest.raises(UserError) as refused:
        settler(cfg, 27 * 2**30, 32).check_memory()
    assert str(refused.value) == (
        "64 images of 641x641 need 27 GiB, 22 are free: trainer.accumulate_grad_batches=32 fits"
    )
    with pytest.raises(UserError, match="one image does not fit either: give a smaller"):
        settler(cfg, 27 * 2**30, None).check_memory()
    settler(cfg, 20 * 2**30, 1).check_memory()
    assert settler(cfg, 27 * 2**30, 32)._accumulated() == (
        32,
        "64 images of 641x641 need 27 GiB, 22 are free",
    )


def test_a_run_on_other_devices_counts_its_passes_anew() -> None:
    def can(**trainer: Any) -> bool:
        return settle_module._can_share(config(batch_size=32, **trainer))

    assert can(devices=4, accumulate_grad_batches=8)
    assert not can(devices=4, accumulate_grad_batches=16)
    assert not can(devices=1, num_nodes=4, accumulate_grad_batches=16)
    assert can(devices="auto", accumulate_grad_batches=16)
    assert can(devices=4, accumulate_grad_batches="auto")


def test_auto_has_a_value_while_a_config_is_checked() -> None:
    cfg = config(max_steps="auto", lr="auto")
    assert open_settings(cfg) == ["schedule.lr", "trainer.max_steps"]
    assert open_settings(without_auto(cfg)) == []
    assert cfg.trainer.max_steps == "auto"
    for key, value in (("lr", "fast"), ("batch_size", 2.5), ("max_steps", True)):
        with pytest.raises(UserError, match=r"is not a (whole )?number; give one, or auto"):
            without_auto(config(**{key: value}))
