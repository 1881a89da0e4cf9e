"""Scalars as one CSV table in the folder of the run.

Lightning's own `CSVLogger` deletes the table of an earlier start when a run is resumed in its
folder; this one goes on with it.
"""

import csv
import logging
import math
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from axialseg.machine.whole_file import whole_file

log = logging.getLogger(__name__)

Row = dict[str, float]


class CsvLogger(Logger):
    """Writes `metrics.csv`: one row a logged step, one column a value, empty where none was logged.

    Values of one step share a row. When a run is resumed from a checkpoint, steps that are done
    again replace their earlier rows. Only rank 0 writes.

    Args:
        folder: folder of the run; it is made if missing.
        write_every: seconds between two writes; a crash loses that much. The end always writes.
    """

    def __init__(self, folder: str | os.PathLike[str], write_every: float = 10.0) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.write_every = write_every
        self._rows: dict[int, Row] | None = None
        self._written_at = -math.inf

    @property
    def name(self) -> str:
        """Empty: the table lies in the folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the table lies in the folder itself."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the run."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Does nothing: the composed configuration is a file of its own in the folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds the values of an optimiser step, 0 if none is given."""
        step = step or 0
        if self._rows is None:
            # A validation that is done later adds to the row of its step.
            self._rows = {number: row for number, row in self._earlier() if number <= step}
        row = self._rows.setdefault(step, {})
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        if any(name.startswith("val/") for name in metrics):
            self._written_at = -math.inf  # scores are written at once: they are made only once

    def before_checkpoint(self) -> None:
        """Writes the table now and once more with the next row, which is of the same step.

        So a run that goes on from the checkpoint finds all rows before it.
        """
        self._write()
        self._written_at = -math.inf

    @rank_zero_only
    def save(self) -> None:
        """Writes the table if the last time was a while ago; Lightning asks at each logged step."""
        if time.monotonic() - self._written_at >= self.write_every:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the table."""
        self._write()

    def has_scores(self, step: int) -> bool:
        """Whether the table on the disk holds values of the validation at a step."""
        return any(name.startswith("val/") for name in dict(self._earlier()).get(step, {}))

    def _earlier(self) -> list[tuple[int, Row]]:
        """The rows of an earlier start; a table that cannot be read is set aside."""
        try:
            return read_table(self.path)
        except (ValueError, KeyError, TypeError, csv.Error, AttributeError) as error:
            aside = self.path.with_name(f"{self.path.stem}_damaged_{time.time_ns()}.csv")
            self.path.rename(aside)
            log.warning("%s is damaged (%s): set aside as %s", self.path, error, aside.name)
            return []

    def _write(self) -> None:
        if not self._rows:
            return
        names = dict.fromkeys(name for row in self._rows.values() for name in row)
        with whole_file(self.path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names])
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in self._rows.items())
        self._written_at = time.monotonic()


def read_table(path: Path) -> list[tuple[int, Row]]:
    """Step and values of each row of a `metrics.csv`; nothing if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            (int(row.pop("step")), {name: float(value) for name, value in row.items() if value})
            for row in csv.DictReader(file)
        ]
