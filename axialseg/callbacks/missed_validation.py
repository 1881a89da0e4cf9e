"""Repeats the validation in which a run was stopped."""

from pathlib import Path

import lightning.pytorch as pl

from axialseg.callbacks.scores import validated_step
from axialseg.loggers.csv import CsvLogger


class MissedValidation(pl.Callback):
    """Makes up, before the first step of a resumed run, the validation that it was stopped in.

    Lightning would go on with the next training step. A validation counts as done when its scores
    are in `metrics.json` and in `metrics.csv`, if there is one, or in the folder of the run that
    this one goes on from.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validates if it is due and not done."""
        step = trainer.global_step
        batches = step * trainer.accumulate_grad_batches
        every = trainer.val_check_batch
        if not step or not trainer.limit_val_batches or not every or batches % every:
            return
        if trainer.strategy.broadcast(_is_done(trainer, step)):
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False
        trainer.validating = True
        validation.run()
        trainer.training = True


def _is_done(trainer: pl.Trainer, step: int) -> bool:
    folder = Path(trainer.default_root_dir)
    if validated_step(folder) == step:
        tables = [logger for logger in trainer.loggers if isinstance(logger, CsvLogger)]
        return all(table.has_scores(step) for table in tables)
    if trainer.ckpt_path is None:
        return False
    return validated_step(Path(trainer.ckpt_path).absolute().parents[1]) == step
