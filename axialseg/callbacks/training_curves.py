"""A picture of the losses, the panoptic quality and the learning rate over the whole run."""

import logging
from pathlib import Path

import lightning.pytorch as pl

from axialseg.csv_logging import CsvLogger, read_table
from axialseg.visualization import save_curves

log = logging.getLogger(__name__)


class TrainingCurves(pl.Callback):
    """Draws `curves.png` in the folder of the run when the training ends.

    The numbers come from `metrics.csv`, which outlives a resumed run's earlier starts; without the
    CSV logger there is no picture.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the picture."""
        table = next((log for log in trainer.loggers if isinstance(log, CsvLogger)), None)
        if table is None or not trainer.is_global_zero:
            return
        table.finalize("success")
        rows = [{"step": float(step), **values} for step, values in read_table(table.path)]
        names = dict.fromkeys(name for row in rows for name in row)
        hidden = ("train/lr", "train/skipped_steps")
        losses = [name for name in names if name.startswith("train/") and name not in hidden]
        panels = {
            "Training loss": losses,
            "Validation, %": ["val/PQ", "val/PQ_things", "val/PQ_stuff", "val/mIoU"],
            "Learning rate": ["train/lr"],
        }
        path = Path(trainer.default_root_dir) / "curves.png"
        save_curves(rows, panels, path)
        log.info("Curves: %s", path)
