"""A picture of the losses, the validation scores and the learning rate over the whole run."""

from pathlib import Path

import lightning.pytorch as pl

from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.machine.whole_file import whole_file
from axialseg.visualization.curves import save_curves

VALIDATION = ("val/PQ", "val/PQ_things", "val/PQ_stuff", "val/mIoU", "val/top1", "val/top5")
NO_LOSSES = ("train/lr", "train/lr_backbone", "train/skipped_steps", "train/gradient_norm")


class TrainingCurves(pl.Callback):
    """Draws `curves.png` in the folder of the run when the training, or a validation, ends.

    The numbers come from `metrics.csv`, which also has those of earlier starts of the run. Without
    the CSV logger there is no picture.
    """

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draws the picture."""
        table = next((logger for logger in trainer.loggers if isinstance(logger, CsvLogger)), None)
        if table is None or not trainer.is_global_zero:
            return
        table.finalize("")  # what it has not written yet
        rows = [{"step": float(step), **values} for step, values in read_table(table.path)]
        names = dict.fromkeys(name for row in rows for name in row)
        losses = [name for name in names if name.startswith("train/") and name not in NO_LOSSES]
        panels = {
            "Training loss, and its terms before their weights": losses,
            "Validation, %": VALIDATION,
            "Learning rate": ["train/lr", "train/lr_backbone"],
        }
        if rows:
            with whole_file(Path(trainer.default_root_dir) / "curves.png") as draft:
                save_curves(rows, panels, draft)
