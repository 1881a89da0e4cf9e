"""Where the time of a step goes, by a clock that only the work of the test moves."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks import speed
from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.speed import Speed
from axialseg.loggers.csv import CsvLogger, read_table

READING, FORWARD, BACKWARD, PAUSE = 3.0, 5.0, 7.0, 1000.0  # seconds of a batch of two images


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Work(pl.Callback):
    """Moves the clock where work is done; stands before `Speed`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_before_backward(self, *_: Any) -> None:
        self.clock.now += FORWARD

    def on_after_backward(self, *_: Any) -> None:
        self.clock.now += BACKWARD

    def on_validation_start(self, *_: Any) -> None:
        self.clock.now += PAUSE

    def on_save_checkpoint(self, *_: Any) -> None:
        self.clock.now += PAUSE


class SlowData(ToyData):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        read = self.train_dataset.read

        def slow(index: int) -> Any:
            clock.now += READING / 2
            return read(index)

        self.train_dataset.read = slow  # type: ignore[method-assign]


def test_parts_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    trainer = toy_trainer(
        tmp_path,
        6,
        val_check_interval=8,  # batches
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        logger=[CsvLogger(tmp_path)],
        callbacks=[Work(clock), Speed(), LastCheckpoint(3)],
    )
    trainer.fit(toy_task(6), datamodule=SlowData(clock))
    assert clock.now > 3 * PAUSE
    rows = [row for _, row in read_table(tmp_path / "metrics.csv") if "speed/step_seconds" in row]
    assert len(rows) >= 3  # all but those before anything was measured
    for row in rows:
        assert row["speed/data_seconds"] == 2 * READING
        assert row["speed/forward_seconds"] == 2 * FORWARD
        assert row["speed/backward_seconds"] == 2 * BACKWARD
        assert row["speed/step_seconds"] == 2 * (READING + FORWARD + BACKWARD)
        assert row["speed/images_per_second"] == pytest.approx(4 / row["speed/step_seconds"])
        assert 0.05 < row["speed/memory_gib"] < 20
