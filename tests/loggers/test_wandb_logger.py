"""Weights & Biases with and without a key, offline in a temporary folder, and on rank 0 only."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from toy_panoptic import ToyData, toy_task, toy_trainer
from wandb.proto.wandb_internal_pb2 import Record

from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.loggers.wandb import find_wandb_logger, finish_wandb, has_key, wandb_logger

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


def records(folder: Path) -> list[Record]:
    """What an offline run holds; its writer is a process of its own and may end after the run."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 60
    while True:
        found = parse_records(file.read_bytes())
        if any(record.HasField("exit") for record in found) or time.monotonic() > end:
            return found
        time.sleep(0.1)


def parse_records(raw: bytes) -> list[Record]:
    """Records of a 7-byte header and the blocks of a LevelDB log, as far as they are written."""
    position, parts, found = 7, [], []
    while position + 7 <= len(raw):
        if 32768 - position % 32768 < 7:  # a block's last bytes are padding
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        parts.append(raw[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # 1 whole, 2 first, 3 middle, 4 last part
            found.append(Record.FromString(b"".join(parts)))
            parts = []
    return found


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
    logger = wandb_logger(str(tmp_path / "model/run"))
    trainer = toy_trainer(
        tmp_path / "model/run",
        4,
        val_check_interval=2,
        log_every_n_steps=1,
        logger=[logger],
        callbacks=[PanopticEvaluation(), PanopticImages(2)],
    )
    trainer.fit(toy_task(4, config={"model": {"name": "toy"}}), datamodule=ToyData())
    run_id = logger.version
    finish_wandb()
    assert wandb.run is None

    found = records(tmp_path / "model/run")
    (run,) = [record.run for record in found if record.HasField("run")][:1]
    assert (run.run_id, run.project, run.display_name) == (run_id, "axialseg", "model/run")
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    steps = [float(row["trainer/global_step"]) for row in rows if "val/PQ" in row]
    assert steps == [2, 4]
    assert len([row for row in rows if "train/loss" in row]) == 4
    assert len([row for row in rows if any("val/classes" in name for name in row)]) == 2
    assert len([row for row in rows if any("val/images" in name for name in row)]) == 2
    config = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in found
        for item in (*record.config.update, *record.run.config.update)
    }
    assert "toy" in str(config)
    files = tmp_path / "model/run/wandb"
    assert len(list(files.glob("offline-run-*/files/media/images/val/*.png"))) == 4
    assert len(list(files.glob("offline-run-*/files/media/table/val/*.json"))) == 2


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
