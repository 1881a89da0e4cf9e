"""A skipped step can be run alone; a run of skipped steps only is no success."""

import logging
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.errors import RunFailedError


class Watch(pl.Callback):
    """Notes positions and loss terms of each batch, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Any]] = {}
        self.step = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        seen = [batch["position"].tolist(), float(outputs["semantic"])]
        self.seen.setdefault(self.step, []).append(seen)


def fit(folder: Path, poisoned: list[int], steps: int, accumulated: int, **rest: Any) -> Watch:
    watch = Watch()
    trainer = toy_trainer(folder, steps, callbacks=[watch], accumulate_grad_batches=accumulated)
    trainer.fit(toy_task(8), datamodule=ToyData(poisoned), **rest)
    return watch


@pytest.mark.parametrize(("accumulated", "poisoned"), [(1, [7]), (2, [13]), (2, [15])])
def test_the_step_runs_alone_as_it_was(
    accumulated: int, poisoned: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    whole = fit(tmp_path, poisoned, 6, accumulated)
    told = re.search(r"(Step 3 of seed 0 is skipped.*not finite; images: toy/\S+)", caplog.text)
    line = re.search(r"python train\.py --config-path (\S+) .*resume=(\S+) (.*)", caplog.text)
    assert told
    assert line
    assert line[1] == str(tmp_path / ".hydra")
    assert line[3].startswith("trainer.max_steps=4 ")
    caplog.clear()
    again = fit(tmp_path, poisoned, 4, accumulated, ckpt_path=line[2], weights_only=True)
    assert again.seen == {3: whole.seen[3]}
    assert len(whole.seen[3]) == accumulated
    assert told[1] in caplog.text


def test_no_more_than_three_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, [0, 2, 4, 6, 8], 6, 1)
    kept = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert kept == ["before_step_0.ckpt", "before_step_1.ckpt", "before_step_2.ckpt"]


def test_a_run_of_skipped_steps_only_fails(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="none of the 10 steps"):
        fit(tmp_path, list(range(20)), 10, 1)
    fit(tmp_path, list(range(18)), 10, 1)


def test_weights_that_are_not_finite_are_not_trained_on(tmp_path: Path) -> None:
    task = toy_task()
    with torch.no_grad():
        next(task.net.parameters())[0, 0] = torch.nan
    with pytest.raises(RunFailedError, match=r"backbone\.0\.weight holds NaN"):
        toy_trainer(tmp_path, 2).fit(task, datamodule=ToyData())
