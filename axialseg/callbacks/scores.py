"""Tells the scores of a validation to everyone: the log, `metrics.json`, the loggers."""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.loggers.wandb import find_wandb_logger
from axialseg.machine.whole_file import whole_file

log = logging.getLogger(__name__)


def log_scores(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    record: dict[str, Any],
    logged: Iterable[str],
    table: str,
    of_classes: str | None = None,
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
        of_classes: name of the number of each class that is logged as ``classes/<class>``, where it
            exists; None logs none.
    """
    step = record["step"]
    scalars = {f"val/{n}": record[n] for n in logged if record.get(n) is not None}
    for row in record["classes"] if of_classes else ():
        if row[of_classes] is not None:
            scalars[f"classes/{row['name'].replace('/', '-')}"] = row[of_classes]
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
        wandb_logger.log_table("classes/table", list(classes[0]), rows, step=step)
        if of_classes:
            history = [(earlier, row) for earlier, row in _logged(trainer) if earlier < step]
            _log_history(wandb_logger, of_classes, [*history, (step, scalars)])


def _logged(trainer: pl.Trainer) -> list[tuple[int, dict[str, float]]]:
    """What the run's table holds of earlier validations, also those before it was resumed."""
    tables = (logger for logger in trainer.loggers if isinstance(logger, CsvLogger))
    return [row for table in tables for row in read_table(table.path)]


def _log_history(
    logger: WandbLogger, name: str, history: list[tuple[int, dict[str, float]]]
) -> None:
    """A number of each class at each validation, as one table and as the lines of one chart."""
    import wandb

    history = [(step, row) for step, row in history if any(map(_is_of_class, row))]
    keys = list(dict.fromkeys(key for _, row in history for key in row if _is_of_class(key)))
    classes = [key.partition("/")[2] for key in keys]
    rows = [[step, *(row.get(key) for key in keys)] for step, row in history]
    logger.log_table(f"classes/{name}_over_time", ["step", *classes], rows, step=history[-1][0])
    columns = [[row.get(key, math.nan) for _, row in history] for key in keys]
    steps = [step for step, _ in history]
    chart: Any = wandb.plot.line_series(
        steps, columns, classes, f"{name} of each class, %", "optimiser step"
    )
    logger.log_metrics({f"classes/{name}_lines": chart}, history[-1][0])


def _is_of_class(key: str) -> bool:
    return key.startswith("classes/")


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
