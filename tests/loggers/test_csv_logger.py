"""The CSV table of scalars."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from axialseg.loggers.csv import CsvLogger, read_table


def written(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return read_table(folder / "metrics.csv")


def test_one_row_a_step_and_one_column_a_value(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "run")
    logger.log_metrics({"train/loss": 2.0, "epoch": 0}, 1)
    logger.log_metrics({"val/PQ": 1 / 3}, 3)
    logger.log_metrics({"train/loss": 1.0}, 3)
    logger.finalize("success")
    assert written(tmp_path / "run") == [
        (1, {"train/loss": 2.0}),
        (3, {"val/PQ": 1 / 3, "train/loss": 1.0}),
    ]
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["step", "train/loss", "val/PQ"]


def test_resuming_goes_on_and_replaces_repeated_steps(tmp_path: Path) -> None:
    first = CsvLogger(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": float(step)}, step)
    first.finalize("failed")
    second = CsvLogger(tmp_path)
    second.log_metrics({"train/loss": 30.0, "train/lr": 0.5}, 3)
    second.log_metrics({"train/loss": 40.0}, 4)
    second.finalize("success")
    assert written(tmp_path) == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 2.0}),
        (3, {"train/loss": 30.0, "train/lr": 0.5}),
        (4, {"train/loss": 40.0}),
    ]


def test_writing_is_rationed_but_the_end_is_always_written(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, write_every=1000.0)
    for step in range(3):
        logger.log_metrics({"x": 1.0}, step)
        logger.save()
    assert len(written(tmp_path)) == 1
    logger.finalize("success")
    assert len(written(tmp_path)) == 3


def test_nothing_logged_is_no_file(tmp_path: Path) -> None:
    CsvLogger(tmp_path).finalize("success")
    assert list(tmp_path.iterdir()) == []
    assert written(tmp_path) == []


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []
