"""Classification under a Trainer: the loss, float32, what the parts get."""

from pathlib import Path

import pytest
import torch
from toy_classification import ToyData, toy_task
from toy_panoptic import toy_trainer

from axialseg.losses.classification_loss import ClassificationLoss


def test_label_smoothing_spreads_a_share_of_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    for smoothing in (0.0, 0.1, 0.5):
        target = torch.full((6, 4), smoothing / 4)
        target[torch.arange(6), labels] += 1 - smoothing
        expected = -(target * logits.log_softmax(1)).sum(1)
        terms = ClassificationLoss(smoothing)(logits, {"label": labels}).total
        torch.testing.assert_close(terms, expected)


def test_learns_and_logs_the_loss(tmp_path: Path) -> None:
    task = toy_task(40, lr=0.05)
    trainer = toy_trainer(tmp_path, 40)
    trainer.fit(task, datamodule=ToyData())
    logged = trainer.callback_metrics
    assert float(logged["train/loss"]) == pytest.approx(float(logged["train/cross_entropy"]))
    assert task.net.shift.abs().max() > 0.1


def test_logits_are_float32_under_autocast() -> None:
    task = toy_task().eval()
    batch = next(iter(ToyData().train_dataloader()))
    with torch.autocast("cpu", torch.bfloat16):
        assert task.validation_step(batch, 0).dtype == torch.float32
        losses = task.training_losses(batch)
    assert losses.total.dtype == torch.float32


def test_channels_last_reaches_the_net(tmp_path: Path) -> None:
    task = toy_task(2, channels_last=True)
    seen = []
    task.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trainer = toy_trainer(tmp_path, 2)
    trainer.fit(task, datamodule=ToyData())
    task.validation_step(next(iter(ToyData().train_dataloader())), 0)
    assert len(seen) == 3
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
