"""What a step logs: its own losses, over all of its batches."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.tasks.step_losses import StepLosses


def test_means_over_the_batches_of_a_step() -> None:
    losses = StepLosses()
    for step in (0.0, 10.0):
        for value in (1.0, 2.0, 6.0):
            total, term = torch.tensor(step + value), torch.tensor(-value)
            losses.add({"loss": total, "term": term})
        means = {name: float(value) for name, value in losses.finish().items()}
        assert means == {"loss": step + 3.0, "term": -3.0}
        assert losses.means["loss"] == step + 3.0


class Batches(pl.Callback):
    """Keeps the terms of each batch and the gradient's norm of each step."""

    def __init__(self) -> None:
        self.terms: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, *_: Any) -> None:
        self.terms.append(float(outputs["semantic"]))

    def on_before_optimizer_step(self, trainer: Any, task: Any, optimizer: Any) -> None:
        gradients = [weight.grad.flatten() for weight in task.parameters()]
        self.norms.append(float(torch.cat(gradients).norm()))


def test_logged_are_the_step_and_its_gradient_before_it_is_clipped(tmp_path: Path) -> None:
    batches = Batches()
    trainer = toy_trainer(
        tmp_path,
        3,
        accumulate_grad_batches=2,
        gradient_clip_val=1e-3,
        log_every_n_steps=1,
        logger=[CsvLogger(tmp_path)],
        callbacks=[batches],
    )
    trainer.fit(toy_task(3), datamodule=ToyData())
    rows = [row for _, row in read_table(tmp_path / "metrics.csv")]
    means = [(a + b) / 2 for a, b in zip(batches.terms[::2], batches.terms[1::2], strict=True)]
    assert [row["train/semantic"] for row in rows] == pytest.approx(means, rel=1e-6)
    for row, norm in zip(rows, batches.norms, strict=True):
        assert row["train/loss"] == pytest.approx(
            row["train/semantic"] + 0.01 * row["train/extra"], rel=1e-6
        )
        assert row["train/gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert norm > 1e-2
