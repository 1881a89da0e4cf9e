"""Callbacks for `test_rank_parity.py`: what each rank computes in each step, and a stop there."""

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch


class StepRecord(pl.Callback):
    """Writes images, loss and all gradients (averaged over the ranks) of each step into the run."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        gradients = {
            name: value.grad.clone()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        self._write(trainer, f"gradients_{trainer.global_step}", gradients)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._write(trainer, f"images_{trainer.global_step - 1}", batch["index"])
        self._write(trainer, f"loss_{trainer.global_step - 1}", outputs["loss"].detach())

    def _write(self, trainer: pl.Trainer, name: str, value: Any) -> None:
        rank = f"{trainer.global_rank}_of_{trainer.world_size}"
        folder = Path(trainer.default_root_dir) / rank
        folder.mkdir(exist_ok=True)
        torch.save(value, folder / f"{name}.pt")


class Hold(pl.Callback):
    """At the start of some steps tells its process in `held_<step>.<rank>`, waits for `go_<step>`.

    Args:
        steps: where to wait.
    """

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        folder = Path(trainer.default_root_dir)
        if step in self.steps:
            (folder / f"held_{step}.{trainer.global_rank}").write_text(str(os.getpid()))
            while not (folder / f"go_{step}").exists():
                time.sleep(0.05)
