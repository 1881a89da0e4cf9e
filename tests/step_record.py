"""A callback for `test_rank_parity.py`: what each rank has computed in each step."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch


class StepRecord(pl.Callback):
    """Writes the loss and all gradients (averaged over the ranks) of each step into the run."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        folder = Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}"
        folder.mkdir(exist_ok=True)
        gradients = {
            name: value.grad.clone()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        torch.save(gradients, folder / f"gradients_{trainer.global_step}.pt")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        folder = Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}"
        torch.save(outputs["loss"].detach(), folder / f"loss_{trainer.global_step - 1}.pt")
