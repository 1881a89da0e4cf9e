"""The task under a Trainer: learning, repeating, resuming, skipping, checkpoints."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from toy_panoptic import SIZE, ToyData, collate, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.errors import UserError
from axialseg.optim.poly_schedule import PolySchedule
from axialseg.tasks.panoptic_deeplab_task import PanopticDeepLabTask
from axialseg.tasks.training_task import step_seed


class Recorder(pl.Callback):
    """Keeps the loss, the learning rate and a weight of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rates.append(float(trainer.callback_metrics["train/lr"]))
        self.weights.append(pl_module.net.head[2].weight.detach().clone())


def run(
    folder: Path,
    task: PanopticDeepLabTask,
    max_steps: int,
    data: ToyData | None = None,
    **rest: Any,
) -> pl.Trainer:
    checkpoint = rest.pop("ckpt_path", None)
    trainer = toy_trainer(folder, max_steps, **rest)
    trainer.fit(task, datamodule=data or ToyData(), ckpt_path=checkpoint, weights_only=True)
    return trainer


def same_state(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def test_learns_and_logs_each_term(tmp_path: Path) -> None:
    recorder, task = Recorder(), toy_task(40, lr=0.05)
    trainer = run(tmp_path, task, 40, callbacks=[recorder])
    assert np.mean(recorder.losses[-5:]) < 0.5 * np.mean(recorder.losses[:5])
    logged = trainer.callback_metrics
    assert {"train/loss", "train/semantic", "train/extra", "train/lr"} <= set(logged)
    assert float(logged["train/loss"]) == pytest.approx(
        float(logged["train/semantic"] + 0.01 * logged["train/extra"])
    )


def test_learning_rate_follows_the_curve_step_by_step(tmp_path: Path) -> None:
    recorder = Recorder()
    run(tmp_path, toy_task(10, lr=0.5), 10, callbacks=[recorder])
    curve = PolySchedule(10, warmup_steps=2)
    assert recorder.rates == pytest.approx([0.5 * curve(step) for step in range(10)])


class Noise(pl.Callback):
    """Draws random numbers between the steps, as a validation or a callback may."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.rand(3)


def test_a_step_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    plain, noisy, other = toy_task(), toy_task(), toy_task(seed=1)
    run(tmp_path, plain, 5)
    torch.manual_seed(99)
    run(tmp_path, noisy, 5, callbacks=[Noise()])
    run(tmp_path, other, 5)
    assert same_state(plain, noisy)
    assert not same_state(plain, other)


def test_step_seeds_differ() -> None:
    seeds = {
        step_seed(*key)
        for key in np.ndindex(3, 3, 3, 3)  # seed, step, accumulated batch, rank
    }
    assert len(seeds) == 81


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_changes_nothing(tmp_path: Path, accumulate: int) -> None:
    whole, first, second = toy_task(6), toy_task(6), toy_task(6)
    torch.nn.init.zeros_(second.net.head[2].weight)  # the checkpoint's must take its place
    run(tmp_path, whole, 6, accumulate_grad_batches=accumulate)
    run(
        tmp_path,
        first,
        3,
        accumulate_grad_batches=accumulate,
        callbacks=[LastCheckpoint(100)],
    )
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    run(tmp_path, second, 6, accumulate_grad_batches=accumulate, ckpt_path=checkpoint)
    assert not same_state(whole, first)
    assert same_state(whole, second)


def test_resuming_takes_the_configured_rate_and_curve(tmp_path: Path) -> None:
    run(tmp_path, toy_task(4, lr=1e-3), 4, callbacks=[LastCheckpoint(100)])
    recorder = Recorder()
    longer = toy_task(8, lr=2e-3)
    run(tmp_path, longer, 8, ckpt_path=tmp_path / "checkpoints/last.ckpt", callbacks=[recorder])
    curve = PolySchedule(8, warmup_steps=2)
    assert recorder.rates == pytest.approx([2e-3 * curve(step) for step in (4, 5, 6, 7)])


def test_checkpoint_is_plain_and_carries_the_config(tmp_path: Path) -> None:
    config = {"model": {"name": "toy", "sizes": [1, 2]}, "seed": 3}
    run(tmp_path, toy_task(2, config=config), 2, callbacks=[LastCheckpoint(100)])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == config
    assert all(name.startswith("net.") for name in checkpoint["state_dict"])


def test_a_poisoned_step_is_skipped_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, task = Recorder(), toy_task(10, lr=0.1)
    trainer = run(tmp_path, task, 6, ToyData(poisoned=[7]), callbacks=[recorder])
    moved = [
        not torch.equal(a, b)
        for a, b in zip(recorder.weights[1:], recorder.weights[:-1], strict=True)
    ]
    assert moved == [True, True, False, True, True]  # positions 6 and 7 are step 3
    assert np.isfinite(recorder.losses).tolist() == [True, True, True, False, True, True]
    assert task.guard.skipped_steps == 1
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1
    assert trainer.global_step == 6
    assert all(value.isfinite().all() for value in task.state_dict().values())
    (message,) = [record.getMessage() for record in caplog.records if "skip" in record.msg]
    assert message.count("toy/") == 1  # its neighbour in the batch is not to blame


def test_a_poisoned_batch_drops_its_accumulated_step(tmp_path: Path) -> None:
    task = toy_task(10)
    trainer = run(tmp_path, task, 3, ToyData(poisoned=[4]), accumulate_grad_batches=2)
    assert task.guard.skipped_steps == 1
    assert trainer.global_step == 3
    assert all(value.isfinite().all() for value in task.state_dict().values())


def test_loss_scaling_of_half_precision_goes_with_skipping(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    recorder, task = Recorder(), toy_task(10)
    run(tmp_path, task, 4, ToyData(poisoned=[2]), plugins=[precision], callbacks=[recorder])
    assert task.guard.skipped_steps == 1
    assert scaler.get_scale() == 2.0**9
    assert torch.equal(recorder.weights[0], recorder.weights[1])
    assert not torch.equal(recorder.weights[1], recorder.weights[2])
    assert all(value.isfinite().all() for value in task.state_dict().values())


def test_losses_are_float32_under_autocast(tmp_path: Path) -> None:
    recorder = Recorder()
    run(tmp_path, toy_task(), 2, precision="bf16-mixed", callbacks=[recorder])  # asserted in loss
    assert np.isfinite(recorder.losses).all()


def test_channels_last_reaches_the_net_and_changes_no_number(tmp_path: Path) -> None:
    plain, ordered = toy_task(), toy_task(channels_last=True)
    for task in (plain, ordered):  # dropout draws in memory order, so its masks would differ
        task.net.head[0].p = 0.0
    seen = []
    ordered.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    recorders = Recorder(), Recorder()
    for task, recorder in zip((plain, ordered), recorders, strict=True):
        run(tmp_path, task, 3, callbacks=[recorder])
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    assert recorders[0].losses == pytest.approx(recorders[1].losses, rel=1e-4)


def test_validation_step_predicts_at_the_original_size() -> None:
    task = toy_task().eval()
    batch = collate([(index, ToyData().val_dataset.read(index)) for index in (4, 5)])
    predictions = task.validation_step(batch, 0)
    assert [prediction.image_id for prediction in predictions] == [4, 5]
    assert [prediction.file_name for prediction in predictions] == ["004.jpg", "005.jpg"]
    for prediction in predictions:
        assert prediction.panoptic.shape == prediction.semantic.shape == (SIZE, SIZE)
        assert prediction.panoptic.dtype == prediction.semantic.dtype == np.int32


def test_averaged_weights_are_not_resumed_without_the_average(tmp_path: Path) -> None:
    def averaging() -> EMAWeightAveraging:
        return EMAWeightAveraging(decay=0.5)

    run(tmp_path, toy_task(), 3, callbacks=[averaging(), LastCheckpoint(100)])
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match="averaged"):
        run(tmp_path, toy_task(), 6, ckpt_path=checkpoint)
    run(tmp_path, toy_task(), 6, ckpt_path=checkpoint, callbacks=[averaging()])
    # Evaluating the average is what the checkpoint is for.
    evaluation = toy_trainer(tmp_path, val_check_interval=1)
    evaluation.validate(toy_task(), ToyData(), ckpt_path=checkpoint, weights_only=True)
