"""TensorBoard has the scalars and the pictures of a run."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.callbacks.speed import Speed
from axialseg.errors import UserError
from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.loggers.tensorboard import tensorboard_logger


def test_scalars_and_pictures(tmp_path: Path) -> None:
    loggers = [CsvLogger(tmp_path), tensorboard_logger(str(tmp_path))]
    callbacks = [Speed(), PanopticEvaluation(), PanopticImages(2)]
    trainer = toy_trainer(
        tmp_path,
        4,
        val_check_interval=2,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=callbacks,
    )
    trainer.fit(toy_task(4), datamodule=ToyData())
    found = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0})
    found.Reload()
    columns = {name for _, row in read_table(tmp_path / "metrics.csv") for name in row}
    assert {"train/loss", "train/gradient_norm", "val/PQ", "classes/cat"} <= columns
    assert columns <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("val/PQ")] == [2, 4]
    assert found.Tags()["images"] == ["val/images/000", "val/images/001"]


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> object:
        return None if name == "tensorboard" else find_spec(name)

    monkeypatch.setattr("axialseg.loggers.tensorboard.find_spec", without)
    with pytest.raises(UserError, match="pip install tensorboard"):
        tensorboard_logger(str(tmp_path))
