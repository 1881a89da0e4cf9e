"""Tells the scores of a validation to everyone: the log, `metrics.json`, the loggers."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from axialseg.loggers.wandb import find_wandb_logger
from axialseg.machine.whole_file import whole_file

log = logging.getLogger(__name__)


def log_scores(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    record: dict[str, Any],
    logged: Iterable[str],
    table: str,
) -> None:
    """All ranks must call it.

    Args:
        trainer: at the end of its validation.
        pl_module: its module.
        record: what `metrics.json` is to hold; ``step``, ``images``, numbers in per cent (None:
            there is no such number), and ``classes``, a list of records with the same keys; if not
            all images were scored, ``images_of_data_set``.
        logged: names of the numbers that are logged as ``val/<name>``, where they exist.
        table: the scores as text.
    """
    step = record["step"]
    scalars = {f"val/{n}": record[n] for n in logged if record.get(n) is not None}
    # The value "step" is the x of the loggers; Lightning's own would be one step behind.
    pl_module.log_dict({**scalars, "step": float(step)}, sync_dist=True)
    if not trainer.is_global_zero:
        return
    images = str(record["images"])
    if "images_of_data_set" in record:
        images += f" of {record['images_of_data_set']}"
    log.info("Validation at step %d, %s images\n%s", step, images, table)
    write_json(Path(trainer.default_root_dir) / "metrics.json", record)
    wandb_logger = find_wandb_logger(trainer)
    if wandb_logger is not None:
        classes = record["classes"]
        rows = [list(row.values()) for row in classes]
        wandb_logger.log_table("val/classes", list(classes[0]), rows, step=step)


def validated_step(folder: Path) -> int | None:
    """Optimiser step of the newest validation whose scores a run's folder holds; None without."""
    try:
        return int(json.loads((folder / "metrics.json").read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file as a whole."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n")
