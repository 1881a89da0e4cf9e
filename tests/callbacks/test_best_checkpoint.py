"""The best checkpoint: which step it is of, and that evaluation takes it."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.best_checkpoint import BestCheckpoint, best_of
from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.scores import write_json


class Scores(pl.Callback):
    """Writes metrics.json as an evaluation does, with scores given by step."""

    def __init__(self, scores: dict[int, float | None]) -> None:
        self.scores = scores

    def on_validation_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        record = {"step": step, "images": 2, "PQ": self.scores[step]}
        write_json(Path(trainer.default_root_dir) / "metrics.json", record)


def fit(folder: Path, scores: dict[int, float | None]) -> Path:
    callbacks = [Scores(scores), LastCheckpoint(2), BestCheckpoint("PQ")]
    trainer = toy_trainer(folder, 8, callbacks=callbacks, val_check_interval=2)
    trainer.fit(toy_task(), datamodule=ToyData())
    return folder / "checkpoints"


@pytest.mark.parametrize(
    ("scores", "best"),
    [((10.0, 30.0, 20.0, 5.0), 4), ((1.0, 2.0, 3.0, 4.0), 8), ((7.0, 7.0, 7.0, None), 6)],
)
def test_keeps_the_best_and_of_equal_ones_the_later(
    tmp_path: Path, scores: tuple[float | None, ...], best: int
) -> None:
    folder = fit(tmp_path, dict(zip((2, 4, 6, 8), scores, strict=True)))
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == best
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 8
    assert json.loads((folder / "best.json").read_text())["step"] == best
    found = best_of(tmp_path)
    assert found is not None
    assert found[0] == folder / "best.ckpt"
    assert found[1].startswith(f"step {best}, PQ ")


def test_goes_on_comparing_in_its_folder(tmp_path: Path) -> None:
    fit(tmp_path, {2: 1.0, 4: 50.0, 6: 1.0, 8: 1.0})
    folder = fit(tmp_path, {2: 1.0, 4: 2.0, 6: 60.0, 8: 2.0})
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 6


def test_a_run_without_scores_has_none(tmp_path: Path) -> None:
    assert best_of(tmp_path) is None
    fit(tmp_path, dict.fromkeys((2, 4, 6, 8)))
    assert best_of(tmp_path) is None
