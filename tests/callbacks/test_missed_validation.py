"""A run that was stopped in a validation makes it up, and its table has no holes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.missed_validation import MissedValidation
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.preemption import Preempted, Preemption
from axialseg.loggers.csv import CsvLogger, read_table

STEPS = 7


class Stop(pl.Callback):
    """Sends a signal in one batch of training, or of a validation; notes the validated images."""

    def __init__(self, hook: str = "", step: int = -1) -> None:
        self.place = hook, step
        self.validations: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.place == ("train", trainer.global_step):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx == 0:
            self.validations.append(trainer.global_step)
        if self.place == ("validation", trainer.global_step) and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder: Path, stop: Stop, accumulated: int = 1) -> dict[str, torch.Tensor]:
    """One start of the run, from its last checkpoint if there is one."""
    callbacks = [PanopticEvaluation(), stop, LastCheckpoint(2), Preemption(), MissedValidation()]
    trainer = toy_trainer(
        folder,
        STEPS,
        accumulate_grad_batches=accumulated,
        val_check_interval=2 * accumulated,
        logger=[CsvLogger(folder)],
        log_every_n_steps=1,
        callbacks=callbacks,
    )
    last = folder / "checkpoints/last.ckpt"
    task = toy_task(STEPS)
    trainer.fit(
        task,
        datamodule=ToyData(val_images=5),
        ckpt_path=last if last.is_file() else None,
        weights_only=True,
    )
    return task.state_dict()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_stopped_anywhere_the_run_is_the_same(accumulated: int, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", Stop(), accumulated)
    stops = [
        *(Stop("validation", 2), Stop("train", 3), Stop("validation", 4), Stop("train", 5)),
        Stop("validation", 6),
    ]
    for stop in stops:
        with pytest.raises(Preempted):
            fit(tmp_path / "stopped", stop, accumulated)
    last = Stop()
    resumed = fit(tmp_path / "stopped", last, accumulated)
    assert [stop.validations for stop in [*stops, last]] == [[2], [2], [4], [4], [6], [6]]
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    tables = [read_table(tmp_path / name / "metrics.csv") for name in ("whole", "stopped")]
    assert [step for step, _ in tables[0]] == list(range(STEPS))
    assert tables[0] == tables[1]
    records = [
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "stopped")
    ]
    assert records[0] == records[1]
    assert records[0]["images"] == 5


def test_a_validation_that_was_done_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        fit(tmp_path, Stop("train", 5))
    (tmp_path / "checkpoints/step_6.ckpt").unlink()
    (tmp_path / "checkpoints/last.ckpt").unlink()
    (tmp_path / "checkpoints/last.ckpt").symlink_to("step_4.ckpt")
    assert (tmp_path / "metrics.json").is_file()
    resumed = Stop()
    fit(tmp_path, resumed)
    assert resumed.validations == [6]


def test_scores_that_did_not_reach_the_table_are_made_again(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        fit(tmp_path, Stop("validation", 6))
    table = tmp_path / "metrics.csv"
    rows = [row for row in table.read_text().splitlines() if not row.startswith("6,")]
    table.write_text("\n".join(rows) + "\n")
    record = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({**record, "step": 6}))
    resumed = Stop()
    fit(tmp_path, resumed)
    assert resumed.validations == [6]
    assert "val/PQ" in dict(read_table(table))[6]


def test_a_damaged_table_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Preempted):
        fit(tmp_path, Stop("train", 5))
    for number, damage in enumerate((b"\xff\xfe\n", b"step,x\nabc,1\n", b"no,header\n1,2\n")):
        (tmp_path / "metrics.csv").write_bytes(damage)
        logger = CsvLogger(tmp_path)
        logger.log_metrics({"train/loss": 1.0}, 5)
        logger.finalize("success")
        aside = list(tmp_path.glob("metrics_damaged_*.csv"))
        assert len(aside) == number + 1
        assert any(file.read_bytes() == damage for file in aside)
        assert "metrics.csv is damaged" in caplog.text
        assert read_table(tmp_path / "metrics.csv") == [(5, {"train/loss": 1.0})]
