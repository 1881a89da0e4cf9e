"""W&B online, against a server of this machine that keeps what arrives."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from toy_panoptic import ToyData, toy_task, toy_trainer
from wandb_server import KEY, WandbServer, running_wandb_server

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.errors import UserError
from axialseg.loggers.csv import CsvLogger
from axialseg.loggers.wandb import finish_wandb, wandb_logger


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server with a key for it; W&B reads its variables once, so it begins anew."""
    wandb.teardown()  # also takes away the variable of its process, which is not to come back
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    with running_wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # else it is sent, and waited for
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "10")
        monkeypatch.setenv("HOME", str(tmp_path))
        yield running
        finish_wandb()
    wandb.teardown()


def train(folder: Path, steps: int) -> None:
    """One start of a run that validates every two steps."""
    last = folder / "checkpoints/last.ckpt"
    trainer = toy_trainer(
        folder,
        steps,
        val_check_interval=2,
        log_every_n_steps=1,
        logger=[CsvLogger(folder), wandb_logger(str(folder), checkpoint="last")],
        callbacks=[PanopticEvaluation(), PanopticImages(2), LastCheckpoint(2)],
    )
    resumed = last if last.exists() else None
    task = toy_task(6, config={"model": {"name": "toy"}})
    trainer.fit(task, datamodule=ToyData(), ckpt_path=resumed, weights_only=True)
    finish_wandb()


def test_a_run_arrives_and_goes_on_as_the_same_run(tmp_path: Path, server: WandbServer) -> None:
    folder = tmp_path / "model/run"
    train(folder, 4)
    train(folder, 6)
    ((run_id, run),) = server.runs.items()
    assert (folder / "wandb_run_id.txt").read_text().split() == [run_id]
    assert (run.newest("groupName"), run.newest("displayName")) == ("model/run", "model/run")
    assert run.exit_codes == [0, 0]
    assert json.loads(run.newest("config"))["model"]["value"] == {"name": "toy"}

    rows = run.rows  # none is lost and none is doubled
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps)
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == list(range(6))
    validations = [row for row in rows if "val/PQ" in row]
    assert [row["trainer/global_step"] for row in validations] == [2, 4, 6]
    assert {row["val/images"]["count"] for row in rows if "val/images" in row} == {2}

    tables = [row["classes/PQ_over_time"] for row in rows if "classes/PQ_over_time" in row]
    newest = json.loads(run.files[tables[-1]["path"]])
    assert [row[0] for row in newest["data"]] == [2, 4, 6]
    masks = [row["val/masks"] for row in rows if "val/masks" in row]
    assert len(masks) == 3
    assert all(path in run.files for one in masks for path in one["filenames"])
    models = [one for one in server.artifacts if one["artifactTypeName"] == "model"]
    assert models[-1]["files"]["last.ckpt"] == (folder / "checkpoints/last.ckpt").read_bytes()


def test_a_wrong_key_is_told_in_a_sentence(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "1" * 40)
    said = rf"W&B at {server.url} refuses the run \(401: user is not logged in\); check the key"
    with pytest.raises(UserError, match=said):
        _ = wandb_logger(str(tmp_path)).experiment
    assert server.runs == {}


def test_a_key_of_a_wrong_length_is_told_too(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(UserError, match=r"refuses the run \(.*API key.*\); check the key"):
        _ = wandb_logger(str(tmp_path)).experiment


def test_without_its_server_a_run_starts_offline(
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    logger = wandb_logger(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        logger.log_metrics({"x": 1.0}, 1)
    assert "W&B at http://127.0.0.1:9 cannot be reached" in caplog.text
    assert "`wandb sync` uploads it later" in caplog.text
    finish_wandb()
    (part,) = tmp_path.glob("wandb/offline-run-*")
    assert part.name.endswith(str(logger.version))


def test_a_server_that_is_lost_ends_no_training(
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    logger = wandb_logger(str(tmp_path))
    logger.log_metrics({"x": 1.0}, 1)
    server.shutdown()
    server.socket.close()
    with caplog.at_level(logging.WARNING):
        for step in (2, 3):
            logger.log_table("table", columns=["a"], data=[[1]], step=step)
            logger.log_metrics({"x": 1.0}, step)
    assert caplog.text.count("W&B has not taken all tables, training goes on") == 1
    with caplog.at_level(logging.WARNING):
        finish_wandb()
    (part,) = tmp_path.glob("wandb/run-*")
    assert (
        f"W&B at {server.url} may lack a part of this run; when it can be reached, "
        f"`wandb sync --no-skip-online {os.path.relpath(part)}` uploads all of it"
    ) in caplog.text


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_for_a_while_ends_no_training(
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """What could not be sent is sent later, or the user is told how to send it."""
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
    logger = wandb_logger(str(tmp_path))
    logger.log_metrics({"x": 0.0}, 0)
    server.failing = status
    for step in (1, 2):
        logger.log_metrics({"x": float(step)}, step)
        logger.log_table("table", columns=["a"], data=[[1]], step=step)
    server.failing = None
    with caplog.at_level(logging.WARNING):
        finish_wandb()
    (run,) = server.runs.values()
    arrived = [row["x"] for row in run.rows if "x" in row]
    assert arrived == [0.0, 1.0, 2.0] or "may lack a part of this run" in caplog.text
