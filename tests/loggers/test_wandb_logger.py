"""Weights & Biases with and without a key, offline in a temporary folder, and on rank 0 only."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from toy_panoptic import ToyData, toy_segments, toy_task, toy_trainer
from wandb_records import OfflineRun

from axialseg.callbacks.data_facts import DataFacts
from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.callbacks.speed import Speed
from axialseg.errors import UserError
from axialseg.loggers.csv import CsvLogger
from axialseg.loggers.wandb import find_wandb_logger, finish_wandb, wandb_logger
from axialseg.loggers.wandb_login import has_key

KEY = "0" * 40


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty home folder and no W&B variables; ends the run of the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield
    finish_wandb()


def mode(logger: WandbLogger) -> Any:
    return logger._wandb_init["mode"]


def test_without_a_key_it_is_offline(tmp_path: Path) -> None:
    assert not has_key()
    assert mode(wandb_logger(str(tmp_path))) == "offline"
    assert mode(wandb_logger(str(tmp_path), mode="online")) == "offline"


def test_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mode(wandb_logger(str(tmp_path))) == "online"


def test_key_in_a_netrc_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "home/.netrc"
    file.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    file.chmod(0o600)
    assert mode(wandb_logger(str(tmp_path))) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert mode(wandb_logger(str(tmp_path))) == "offline"


def test_key_for_the_server_that_wandb_login_has_stored(tmp_path: Path) -> None:
    file = tmp_path / "home/.netrc"
    file.write_text(f"machine wandb.example.org:8080 login user password {KEY}\n")
    file.chmod(0o600)
    assert mode(wandb_logger(str(tmp_path))) == "offline"
    settings = tmp_path / "home/.config/wandb/settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://wandb.example.org:8080\n")
    assert mode(wandb_logger(str(tmp_path))) == "online"


def test_wandb_offline_in_the_folder_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    settings = Path("wandb/settings")
    settings.parent.mkdir()
    settings.write_text("[default]\nmode = offline\n")
    assert mode(wandb_logger(str(tmp_path))) == "offline"
    settings.write_text("no settings\n")
    assert mode(wandb_logger(str(tmp_path))) == "online"


def test_a_broken_netrc_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "home/.netrc").write_text("machine api.wandb.ai nonsense\n")
    assert mode(wandb_logger(str(tmp_path))) == "offline"


@pytest.mark.parametrize("wanted", ["offline", "disabled"])
def test_the_environment_decides_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", wanted)
    assert mode(wandb_logger(str(tmp_path))) == wanted


def test_a_resumed_run_keeps_its_id_and_a_new_run_gets_another(tmp_path: Path) -> None:
    first = wandb_logger(str(tmp_path / "a")).version
    assert wandb_logger(str(tmp_path / "a")).version == first
    assert wandb_logger(str(tmp_path / "b")).version != first
    assert (tmp_path / "a/wandb_run_id.txt").read_text().strip() == first


def test_offline_run_holds_scalars_classes_pictures_and_config(tmp_path: Path) -> None:
    folder = tmp_path / "model/run"
    folder.mkdir(parents=True)
    starts = [{"command": "an earlier one"}, {"command": "python train.py x=1", "revision": "abc"}]
    (folder / "provenance.json").write_text(json.dumps(starts))
    logger = wandb_logger(str(folder), checkpoint="last")
    trainer = toy_trainer(
        folder,
        4,
        val_check_interval=2,
        log_every_n_steps=1,
        logger=[CsvLogger(folder), logger],
        callbacks=[
            Speed(),
            DataFacts(),
            PanopticEvaluation(),
            PanopticImages(2),
            LastCheckpoint(2),
        ],
    )
    trainer.fit(toy_task(4, config={"model": {"name": "toy"}}), datamodule=ToyData())
    run_id = logger.version
    finish_wandb()
    assert wandb.run is None

    found = OfflineRun(folder)
    run = found.run
    assert (run.run_id, run.project, run.display_name) == (run_id, "axialseg", "model/run")
    validations = [row for row in found.rows if "val/PQ" in row]
    assert [row["trainer/global_step"] for row in validations] == [2, 4]
    names = {f"val/{name}" for name in ("PQ", "PQ_things", "SQ_stuff", "RQ_things", "mIoU")}
    assert names | {"classes/cat", "classes/grass"} <= set(validations[0])
    steps = [row for row in found.rows if "train/loss" in row]
    assert len(steps) == 4
    terms = {f"train/{name}" for name in ("semantic", "extra", "lr", "gradient_norm")}
    speeds = ("images_per_second", "data_seconds", "forward_seconds", "backward_seconds")
    speeds = {f"speed/{name}" for name in (*speeds, "step_seconds", "memory_gib")}
    assert terms | speeds <= set(steps[-1])
    sections = {key.partition("/")[0] for key in found.keys if not key.startswith("_")}
    assert sections == {"train", "val", "classes", "speed", "trainer", "epoch"}

    assert found.config["model"] == {"name": "toy"}
    assert found.config["run"] == {"folder": str(folder), **starts[1]}
    data = json.loads((folder / "data.json").read_text())
    assert found.config["data_set"] == data
    assert [data[split]["images"] for split in ("train", "val")] == [6, 3]
    (stored,) = [one for one in found.artifacts if one.type == "model"]
    assert [content.path for content in stored.manifest.contents] == ["last.ckpt"]

    assert len(list(found.media.glob("images/val/images_*.png"))) == 4
    # The same two images at each validation, as they are, each with two masks.
    images = [row for row in found.rows if "val/masks/captions" in row]
    assert [row["val/masks/captions"] for row in images] == [["000", "001"]] * 2
    assert len({file.name[-24:] for file in found.media.glob("images/val/masks_*.png")}) == 2
    shown = images[0]["val/masks/all_masks"]
    assert [set(one) for one in shown] == [{"prediction", "ground truth"}] * 2
    truth = found.media.parent / shown[0]["ground truth"]["path"]
    assert (np.asarray(Image.open(truth)) == toy_segments(0).semantic_map(0)).all()

    tables = {
        name: [
            json.loads(file.read_text())
            for file in sorted(
                found.media.glob(f"table/classes/{name}_*.json"), key=lambda f: f.stat().st_mtime_ns
            )
        ]
        for name in ("table", "PQ_over_time", "PQ_lines_table")
    }
    assert [row[1] for row in tables["table"][-1]["data"]] == ["cat", "dog", "grass"]
    over_time = tables["PQ_over_time"][-1]
    assert over_time["columns"] == ["step", "cat", "dog", "grass"]
    assert [row[0] for row in over_time["data"]] == [2, 4]
    assert over_time["data"][1][3] == validations[1]["classes/grass"]
    assert len(tables["PQ_lines_table"][-1]["data"]) == 6


def test_an_offline_run_that_goes_on_is_a_further_run_of_its_group(tmp_path: Path) -> None:
    ids = []
    for part in (1, 2, 3):
        logger = wandb_logger(str(tmp_path / "a"), mode="offline")
        logger.log_metrics({"x": 1.0}, part)
        ids.append(logger.version)
        finish_wandb()
    parts = [OfflineRun(tmp_path / "a", part, 3).run for part in range(3)]
    assert [run.run_id for run in parts] == ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert {run.run_group for run in parts} == {f"{tmp_path.name}/a"}
    assert parts[1].display_name == f"{tmp_path.name}/a part 2"


def test_a_run_that_was_online_goes_on_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    first = wandb_logger(str(tmp_path))
    (tmp_path / f"wandb/run-20260101_000000-{first.version}").mkdir(parents=True)
    again = wandb_logger(str(tmp_path))
    assert again.version == first.version
    assert again._wandb_init["resume"] == "allow"
    assert wandb_logger(str(tmp_path), mode="offline").version == f"{first.version}-2"


def test_a_wrong_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint=newest, but it must be best, last or null"):
        wandb_logger(str(tmp_path), checkpoint="newest")


def test_other_ranks_start_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path))
    logger.log_metrics({"x": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.log_table("t", columns=["a"], data=[[1]])
    assert wandb.run is None
    assert list(tmp_path.glob("wandb*")) == []


def test_jobs_of_one_process_are_runs_of_their_own(tmp_path: Path) -> None:
    first = wandb_logger(str(tmp_path / "0"), mode="offline")
    first.log_metrics({"x": 1.0}, 0)
    second = wandb_logger(str(tmp_path / "1"), mode="offline")
    second.log_metrics({"x": 1.0}, 0)
    assert wandb.run is not None
    assert wandb.run.id == second.version != first.version


def test_finds_the_logger_of_a_trainer(tmp_path: Path) -> None:
    logger = wandb_logger(str(tmp_path))
    assert find_wandb_logger(toy_trainer(tmp_path, logger=[logger])) is logger
    assert find_wandb_logger(toy_trainer(tmp_path)) is None
