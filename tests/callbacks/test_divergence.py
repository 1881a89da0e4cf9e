"""A rate that is far too high is said early; one that is right is never blamed."""

import logging
from pathlib import Path

import pytest
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.divergence import Divergence

LINE = "the loss has grown tenfold in 50 steps"


def said(folder: Path, lr: float, steps: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    trainer = toy_trainer(folder, steps, limit_val_batches=0, callbacks=[Divergence()])
    with caplog.at_level(logging.WARNING):
        trainer.fit(toy_task(steps, lr), datamodule=ToyData(poisoned=(3,)))
    return [record.getMessage() for record in caplog.records if LINE in record.getMessage()]


def test_a_rate_that_diverges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = said(tmp_path, 30.0, 60, caplog)
    assert len(lines) == 1  # once, though the loss stays high
    assert int(lines[0].split()[1].rstrip(":")) <= 20
    assert lines[0].endswith("schedule.lr=10")


def test_a_rate_that_learns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert said(tmp_path, 0.02, 60, caplog) == []
