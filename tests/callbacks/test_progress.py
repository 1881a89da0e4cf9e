"""Progress lines: what they say and when."""

import re
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.progress import Progress, clock

LINE = re.compile(
    r"step +(?P<step>\d+)/10  loss (?P<loss>\d+\.\d+) "
    r"\(semantic (?P<semantic>\d+\.\d+), extra (?P<extra>\d+\.\d+)\)"
    r"  lr (?P<lr>\d\.\d\de[+-]\d\d)  (?P<rate>\d+\.\d) images/s"
    r"  \d+:\d\d elapsed, \d+:\d\d left(?: and \d validations?)?"
)


def lines(
    folder: Path, caplog: pytest.LogCaptureFixture, callback: Progress, **rest: Any
) -> list[dict[str, str]]:
    caplog.set_level("INFO", "axialseg")
    poisoned = rest.pop("poisoned", [])
    trainer = toy_trainer(folder, 10, callbacks=[callback], **rest)
    trainer.fit(toy_task(10), datamodule=ToyData(poisoned))
    messages = [
        record.getMessage()
        for record in caplog.records
        if "step" in record.msg or "%s" in record.msg
    ]
    steps = [message for message in messages if message.startswith("step")]
    matches = [LINE.fullmatch(message) for message in steps]
    assert all(matches), steps
    return [match.groupdict() for match in matches if match]


def test_a_line_every_n_steps_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = lines(tmp_path, caplog, Progress(every_n_steps=4))
    assert [int(line["step"]) for line in found] == [4, 8, 10]
    # The rate of the last step of each line: curve (1 - step / 10) ** 0.9 at steps 3, 7, 9.
    rates = [float(line["lr"]) for line in found]
    assert rates == pytest.approx([0.02 * (1 - s / 10) ** 0.9 for s in (3, 7, 9)], rel=0.01)
    for line in found:
        total = float(line["semantic"]) + 0.01 * float(line["extra"])
        assert float(line["loss"]) == pytest.approx(total, abs=2e-3)


def test_first_line_says_what_is_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines(tmp_path, caplog, Progress())
    assert "Training 140 parameters from step 0 to 10 on 1 x cpu, 32-true" in caplog.text


def test_slow_steps_get_a_line_by_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = lines(tmp_path, caplog, Progress(1000, 0.0, first_seconds=0.0))
    assert len(found) == 10


def test_a_skipped_step_does_not_spoil_the_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = lines(tmp_path, caplog, Progress(every_n_steps=5), poisoned=[4])
    assert len(found) == 2  # the pattern admits no nan


def test_accumulated_batches_count_as_one_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = lines(tmp_path, caplog, Progress(every_n_steps=5), accumulate_grad_batches=3)
    assert [int(line["step"]) for line in found] == [5, 10]
    for line in found:
        total = float(line["semantic"]) + 0.01 * float(line["extra"])
        assert float(line["loss"]) == pytest.approx(total, abs=2e-3)


def test_long_validation_shows_that_it_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines(tmp_path, caplog, Progress(every_seconds=0.0), val_check_interval=10)
    assert "validation batch 1/2" in caplog.text
    assert "validation batch 2/2" in caplog.text


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 59.6, 61, 3600, 36_061)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]


class Slow(pl.Callback):
    """A step that waits until a text was logged."""

    def __init__(self, step: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
        self.step, self.text, self.caplog = step, text, caplog

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        for _ in range(600 if trainer.global_step == self.step else 0):
            if self.text in self.caplog.text:
                return
            time.sleep(0.1)


def test_a_slow_first_step_shows_that_it_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "axialseg")
    slow = Slow(0, "step 1 is running, 0:", caplog)
    progress = Progress(every_n_steps=1000, every_seconds=3600.0, first_seconds=0.1)
    trainer = toy_trainer(tmp_path, 3, callbacks=[progress, slow])
    trainer.fit(toy_task(3), datamodule=ToyData())
    assert slow.text in caplog.text
    assert caplog.text.count("is running") == 1  # the next line is due after an hour
    assert "step 3/3  loss" in caplog.messages[-2]
    assert progress._ended.is_set()


def test_slow_steps_tell_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axialseg.callbacks.progress.GRACE", 0.1)
    caplog.set_level("INFO", "axialseg")
    slow = Slow(1, "step 1/4  0:", caplog)
    progress = Progress(every_n_steps=1000, every_seconds=0.0, first_seconds=0.0)
    trainer = toy_trainer(tmp_path, 4, callbacks=[progress, slow])
    trainer.fit(toy_task(4), datamodule=ToyData())
    assert re.search(r"step 1/4  \d:\d\d elapsed, \d:\d\d left", caplog.text)


def test_the_time_left_counts_validations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    trainer = toy_trainer(tmp_path, 10, callbacks=[progress], val_check_interval=2)
    trainer.fit(toy_task(10), datamodule=ToyData())
    progress._first_step, progress._step, progress._started = 0, 4, 0.0
    # Four steps of 10 s and two validations of 30 s each: six steps, three validations to come.
    progress._validating, progress._validations = 60.0, 2
    assert progress._left(trainer, 100.0) == "2:30 left"
    progress._validating, progress._validations = 0.0, 0
    assert progress._left(trainer, 40.0) == "1:00 left and 3 validations"
