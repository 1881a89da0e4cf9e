"""What all tasks have in common: optimisation, random numbers, skipped steps."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from axialseg.checkpoints.stored_weights import refuse_not_finite
from axialseg.errors import RunFailedError, UserError
from axialseg.losses.losses import Losses
from axialseg.tasks.step_guard import StepGuard
from axialseg.tasks.step_losses import StepLosses

log = logging.getLogger(__name__)

ParameterGroups = list[dict[str, Any]]
KEPT_STEPS = 3  # skipped ones, for each start of a run; a checkpoint is large


class TrainingTask(pl.LightningModule, ABC):
    """Trains a net.

    A method adds `training_losses` and `validation_step`, whose result callbacks score, draw and
    write.

    Args:
        net: images ``[B, 3, H, W]`` in 0..255 -> outputs.
        loss: outputs and batch -> the loss of each image, and its terms; the batch mean of
            `Losses.total` is minimised.
        optimizer: makes the optimiser from parameter groups; this and the next two may be None if
            the task only evaluates.
        parameter_groups: net -> groups, each with its base learning rate.
        curve: factor on the base learning rate at an optimiser step.
        seed: of the random numbers that the net draws in training (dropout, drop path).
        channels_last: keep images and kernels channels last in memory. The numbers are the same up
            to rounding; convolutions are faster on CPUs and on GPUs with tensor cores.
        config: plain (no OmegaConf) composed configuration, for checkpoints and loggers.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Any, dict[str, Any]], Losses],
        optimizer: Callable[[ParameterGroups], Optimizer] | None,
        parameter_groups: Callable[[nn.Module], ParameterGroups] | None,
        curve: Callable[[int], float] | None,
        seed: int = 0,
        channels_last: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(config or {})
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]
        self.loss = loss
        self.optimizer = optimizer
        self.parameter_groups = parameter_groups
        self.curve = curve
        self.seed = seed
        self.channels_last = channels_last
        self.guard = StepGuard(net, self._image_names)
        self.step_losses = StepLosses()
        self._first_step = 0
        self._kept_steps = 0
        self._is_within_step = False

    def setup(self, stage: str) -> None:
        """Gives the weights their precision before Lightning restores a checkpoint, not after.

        Else float64 ones would be rounded to float32 on the way.
        """
        self.trainer.precision_plugin.convert_module(self)

    @abstractmethod
    def training_losses(self, batch: dict[str, Any]) -> Losses:
        """The losses of the images of a training batch."""

    def configure_optimizers(self) -> Any:
        """The optimiser, and the learning rate that follows `curve` step by step."""
        curve = self.curve
        assert self.optimizer is not None
        assert self.parameter_groups is not None
        assert curve is not None
        optimizer = self.optimizer(self.parameter_groups(self.net))
        # A plain function: a callable object would be stored in checkpoints, and the curve of an
        # earlier run would silently replace the configured one when training is resumed.
        scheduler = LambdaLR(optimizer, lambda step: curve(step))
        config = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_train_start(self) -> None:
        """Lets a resumed run follow its configuration, not the rates that the checkpoint holds.

        Raises:
            RunFailedError: the weights to start from are not finite.
        """
        self._first_step = self.global_step
        refuse_not_finite(self.net.state_dict(), f"step {self.global_step} of this run")
        assert self.parameter_groups is not None
        assert self.curve is not None
        configured = self.parameter_groups(self.net)
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.base_lrs = [group["lr"] for group in configured]
        factor = self.curve(self.global_step)
        for group, wanted in zip(self.trainer.optimizers[0].param_groups, configured, strict=True):
            group["lr"] = wanted["lr"] * factor
            group["weight_decay"] = wanted["weight_decay"]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seeds torch, so that dropout depends on the seed and the step, not on what ran before."""
        part = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(step_seed(self.seed, self.global_step, part, self.global_rank))
        self.guard.before_forward()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The total loss as ``loss``, and each term by its name; means of the batch.

        The terms have no weights, so a new weight changes no curve.
        """
        losses = self.training_losses(self.ordered(batch))
        detached = {name: term.detach().mean() for name, term in losses.terms.items()}
        self.step_losses.add({"loss": losses.total.detach().mean(), **detached})
        return {"loss": self.guard.watch(losses.total, batch["index"]), **detached}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the step, and drops it if it would make weights NaN.

        The learning rate moves on all the same. Logged are ``train/loss`` and ``train/<term>``, as
        `StepLosses` has them; the base rate, and the backbone's where it differs, of this step;
        the norm of the gradient before it is clipped; and the number of skipped steps before this.
        """
        self.log_dict({f"train/{name}": value for name, value in self.step_losses.finish().items()})
        rates = [group["lr"] for group in optimizer.param_groups]
        self.log("train/lr", max(rates))
        if min(rates) < max(rates):
            self.log("train/lr_backbone", min(rates))
        self.log("train/skipped_steps", float(self.guard.skipped_steps))
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        step = f"Step {self.global_step} of seed {self.seed}"
        goes_ahead = self.guard.check(parameters, step)
        self.log("train/gradient_norm", self.guard.gradient_norm)
        if not goes_ahead and self._kept_steps < KEPT_STEPS:
            self._keep_step()

    def on_train_end(self) -> None:
        """Refuses to call a training well done that took no step.

        Raises:
            RunFailedError: all steps since the start, ten or more, were dropped.
        """
        skipped = self.guard.skipped_in_a_row
        if skipped >= 10 and skipped == self.global_step - self._first_step:
            raise RunFailedError(
                f"none of the {skipped} steps had a finite loss or gradient, so nothing was "
                "learnt; go on from an earlier checkpoint, or with a lower schedule.lr"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the classes, so that the checkpoint can be used where the data are not.

        A checkpoint that is written within a step is put back to the step's beginning.
        """
        categories = getattr(getattr(self.trainer, "datamodule", None), "categories", None)
        if categories is not None:
            checkpoint["classes"] = asdict(categories)
        if self._is_within_step:
            batches = self.global_step * self.trainer.accumulate_grad_batches
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            counted = dict.fromkeys(("ready", "started", "processed", "completed"), batches)
            progress["total"] |= counted
            progress["current"] |= counted

    def _keep_step(self) -> None:
        """Leaves what this very step started from, and the line that runs it alone."""
        self._kept_steps += 1
        folder = Path(self.trainer.default_root_dir).absolute()
        file = folder / "checkpoints" / f"before_step_{self.global_step}.ckpt"
        self._is_within_step = True
        self.trainer.save_checkpoint(file, weights_only=False)
        self._is_within_step = False
        if self.trainer.is_global_zero:
            log.warning(
                "To run this step alone, on the same images with the same random numbers:\n"
                "%s --config-path %s --config-name config resume=%s "
                "trainer.max_steps=%d trainer.limit_val_batches=0 hydra.run.dir=%s",
                os.environ.get("AXIALSEG_START", "python train.py"),
                *(folder / ".hydra", file, self.global_step + 1),
                folder / f"step_{self.global_step}",
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to train on from averaged weights as if they were the trained ones."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if self.trainer.training and "current_model_state" in checkpoint and not averages:
            raise UserError(
                "The checkpoint to resume from holds averaged weights: add the callback of the run "
                "that wrote it (callbacks=ema), or start a new run from it with "
                "model.initial_checkpoint."
            )

    def ordered(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its image in the memory order of the kernels."""
        if not self.channels_last:
            return batch
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        return {**batch, "image": image}

    def _image_names(self, index: Tensor) -> list[str]:
        """File names of training images."""
        dataset = self.trainer.datamodule.train_dataset  # type: ignore[attr-defined]
        return [dataset.read(int(number)).file_name for number in index]


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """A well mixed seed for the random numbers of one training batch.

    Args:
        seed: of the run.
        step: optimiser step.
        part: number of the batch among those accumulated in the step.
        rank: of the process.
    """
    return int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0])
