"""Adverts are silenced, real messages get through."""

import logging
import warnings
from pathlib import Path

import pytest
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.loggers.lightning_messages import quiet_lightning

NAME = "lightning.pytorch.utilities.rank_zero"


def test_adverts_of_a_run_are_silenced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", NAME)
    quiet_lightning()
    toy_trainer(tmp_path, 1).fit(toy_task(1), datamodule=ToyData())
    messages = [record.getMessage() for record in caplog.records]
    assert "`Trainer.fit` stopped: `max_steps=1` reached." in messages
    assert not [message for message in messages if "Tip" in message or "GPU available" in message]


def test_other_messages_and_warnings_get_through(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        quiet_lightning()
        logging.getLogger(NAME).warning("GPU on fire")
        assert "GPU on fire" in caplog.text
        with pytest.warns(UserWarning, match="weights"):
            warnings.warn("the weights are NaN", UserWarning, stacklevel=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn(
                "The 'train_dataloader' does not have many workers which may be a bottleneck.",
                UserWarning,
                stacklevel=1,
            )
        assert not caught


def test_calling_twice_adds_one_filter() -> None:
    quiet_lightning()
    before = len(logging.getLogger(NAME).filters)
    quiet_lightning()
    assert len(logging.getLogger(NAME).filters) == before
