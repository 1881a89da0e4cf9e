"""MaX-DeepLab's task on the real data: half precision, and heads that are not finite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from axialseg.build import build_task, build_training_data
from axialseg.config.auto import without_auto
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.losses import max_deeplab_loss
from axialseg.losses.matching import match_masks

BAD_STEP = 1
Spoil = Callable[[MaskHeads], MaskHeads]


class Run(NamedTuple):
    """A task that has been trained for some steps.

    Attributes:
        task: trained.
        names: of each step's images.
        losses: of each step.
        states: of the network, after each step.
    """

    task: pl.LightningModule
    names: list[list[str]]
    losses: list[float]
    states: list[dict[str, Tensor]]


class Recorder(pl.Callback):
    """Notes what `Run` holds."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        dataset = trainer.datamodule.train_dataset
        self.run.names.append([dataset.read(int(i)).file_name for i in batch["index"]])
        self.run.losses.append(float(outputs["loss"]))
        net = pl_module.get_submodule("net")
        self.run.states.append({name: value.clone() for name, value in net.state_dict().items()})


@pytest.fixture
def trained(tiny_max_run: list[str], tmp_path: Path) -> Callable[..., Run]:
    """Trains for some steps of two images; `spoil` changes the heads in step `BAD_STEP`."""

    def train(max_steps: int, spoil: Spoil | None = None, **arguments: Any) -> Run:
        register_schemas()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            lines = [*tiny_max_run, "logger=none", f"trainer.max_steps={max_steps}"]
            cfg = without_auto(compose("train", lines))
        torch.manual_seed(0)
        data = build_training_data(cfg, world_size=1)
        task = build_task(cfg, data.categories)
        steps = iter(range(max_steps))

        def hook(_module: Any, _inputs: Any, heads: MaskHeads) -> MaskHeads | None:
            return spoil(heads) if next(steps) == BAD_STEP and spoil is not None else None

        task.get_submodule("net").heads.register_forward_hook(hook)
        run = Run(task, [], [], [])
        trainer = pl.Trainer(
            default_root_dir=tmp_path,
            max_steps=max_steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[Recorder(run)],
            **arguments,
        )
        trainer.fit(task, datamodule=data)
        return run

    return train


def spoiled(head: str, value: float, image: int) -> Spoil:
    """Puts a value into the first channel, or slot, of one image's head."""

    def spoil(heads: MaskHeads) -> MaskHeads:
        place = torch.zeros_like(getattr(heads, head), dtype=torch.bool)
        place[image, 0] = True
        return heads._replace(**{head: getattr(heads, head).masked_fill(place, value)})

    return spoil


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("head", MaskHeads._fields)
def test_an_image_that_is_not_finite_is_named_and_its_step_skipped(
    head: str, value: float, trained: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(3, spoiled(head, value, image=1))
    finite = [bool(torch.isfinite(torch.tensor(loss))) for loss in run.losses]
    assert finite == [True, False, True]
    assert run.task.guard.skipped_steps == 1
    (message,) = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert message.endswith(f"images: {run.names[BAD_STEP][1]}")
    first, second, third = run.states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(second[name], third[name]) for name in first)
    assert all(value.isfinite().all() for value in third.values())


def half(dtype: torch.dtype) -> MixedPrecision:
    if dtype == torch.bfloat16:
        return MixedPrecision("bf16-mixed", "cpu")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reaches_neither_the_matching_nor_the_sums(
    dtype: torch.dtype, trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[Tensor] = []
    summed: list[torch.dtype] = []
    softmax = Tensor.softmax

    def watched(cost: Tensor, valid: Tensor) -> Tensor:
        costs.append(cost)
        return match_masks(cost, valid)

    def noted(x: Tensor, *arguments: Any) -> Tensor:
        summed.append(x.dtype)
        return softmax(x, *arguments)

    monkeypatch.setattr(max_deeplab_loss, "match_masks", watched)
    monkeypatch.setattr(Tensor, "softmax", noted)
    run = trained(2, plugins=[half(dtype)])
    assert len(costs) == 2
    assert all(cost.dtype == torch.float32 and cost.isfinite().all() for cost in costs)
    # Two in each transformer, two in the loss, and those of the axial attention, if it has any.
    assert len(summed) >= 2 * (2 * 2 + 2)
    assert set(summed) == {torch.float32}
    assert run.task.guard.skipped_steps == 0


def test_costs_that_overflow_half_precision_are_no_obstacle(trained: Callable[..., Run]) -> None:
    """fp16 ends at 65504; heads beyond it are fine in float32."""

    def spoil(heads: MaskHeads) -> MaskHeads:
        return heads._replace(mask_logits=heads.mask_logits * 1e6)

    run = trained(3, spoil, plugins=[half(torch.bfloat16)])
    assert run.task.guard.skipped_steps == 0
    assert all(loss < 1e9 for loss in run.losses)


def test_bfloat16_is_near_float32(trained: Callable[..., Run]) -> None:
    exact, rounded = trained(1), trained(1, plugins=[half(torch.bfloat16)])
    assert exact.names == rounded.names
    assert rounded.losses == pytest.approx(exact.losses, rel=0.02)
