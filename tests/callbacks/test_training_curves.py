"""The picture of the curves."""

from pathlib import Path
from typing import Any

import pytest
from toy_panoptic import ToyData, toy_task, toy_trainer

import axialseg.callbacks.training_curves as module
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.training_curves import TrainingCurves
from axialseg.loggers.csv import CsvLogger


def fit(folder: Path, logger: Any) -> None:
    trainer = toy_trainer(
        folder,
        6,
        val_check_interval=3,
        log_every_n_steps=2,
        callbacks=[TrainingCurves(), PanopticEvaluation()],
        logger=logger,
    )
    trainer.fit(toy_task(6), datamodule=ToyData())


def test_draws_losses_quality_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def save_curves(rows: Any, panels: Any, path: Path) -> None:
        drawn.append((rows, panels))
        path.touch()

    monkeypatch.setattr(module, "save_curves", save_curves)
    fit(tmp_path, [CsvLogger(tmp_path)])
    ((rows, panels),) = drawn
    assert (tmp_path / "curves.png").is_file()
    assert next(iter(panels.values())) == ["train/loss", "train/semantic", "train/extra"]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 3, 5]
    assert [row["step"] for row in rows if "val/PQ" in row] == [3, 6]


def test_writes_the_png(tmp_path: Path) -> None:
    fit(tmp_path, [CsvLogger(tmp_path)])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_csv_logger_there_is_none(tmp_path: Path) -> None:
    fit(tmp_path, False)
    assert not (tmp_path / "curves.png").exists()
