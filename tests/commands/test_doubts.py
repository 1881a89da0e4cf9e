"""How the batch is made up, as a line, and what is doubted before training."""

from typing import Any

import pytest
import torch
from small_config import config

from axialseg.commands.doubts import name_doubts, name_idle_gpus, shared_batch
from axialseg.machine.hardware import Hardware


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, ""),
        ({"warmup_steps": 100}, "warmup_steps=100 is not below trainer.max_steps=100"),
        ({"batch_size": 1}, "Each forward pass sees one image"),
        ({"accumulate_grad_batches": 8}, "Each forward pass sees one image"),
        ({"val_check_interval": 101}, "give trainer.val_check_interval=20"),
    ],
)
def test_doubts(changes: dict[str, Any], doubt: str, caplog: pytest.LogCaptureFixture) -> None:
    name_doubts(config(**changes))
    assert doubt in caplog.text
    assert bool(caplog.text) == bool(doubt)


@pytest.mark.parametrize(
    ("batch", "devices", "passes", "line"),
    [
        (64, 8, 2, "Batch: 64 images = 8 devices x 4 in a pass x 2 passes"),
        (16, 1, 1, "Batch: 16 images = 1 device x 16 in a pass x 1 pass"),
        (1, 1, 1, "Batch: 1 image = 1 device x 1 in a pass x 1 pass"),
    ],
)
def test_the_batch_is_arithmetic(batch: int, devices: int, passes: int, line: str) -> None:
    assert shared_batch(config(batch_size=batch, accumulate_grad_batches=passes), devices) == line


@pytest.mark.parametrize(
    ("batch", "used", "devices", "said"),
    [
        (32, 2, "auto", "2 of 3 GPUs work: 3 cannot share schedule.batch_size=32 evenly; all"),
        (32, 2, "auto", "with schedule.batch_size=30 or 33"),
        (2, 2, "auto", "with schedule.batch_size=3"),
        (33, 3, "auto", ""),
        (32, 2, 2, ""),
    ],
)
def test_idle_gpus_are_named(
    batch: int,
    used: int,
    devices: Any,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    cfg = config(batch_size=batch, devices=devices)
    name_idle_gpus(cfg, Hardware("gpu", used, "bf16-mixed", used))
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
