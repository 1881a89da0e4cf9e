"""Scalars as one CSV table in the folder of the run.

Lightning's own `CSVLogger` deletes the table of an earlier start when a run is resumed in its
folder; this one goes on with it.
"""

import csv
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from axialseg.machine.whole_file import whole_file

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
        self._written_at = 0.0

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
            self._rows = {number: row for number, row in read_table(self.path) if number < step}
        row = self._rows.setdefault(step, {})
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})

    @rank_zero_only
    def save(self) -> None:
        """Writes the table if the last time was a while ago; Lightning asks at each logged step."""
        if time.monotonic() - self._written_at >= self.write_every:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the table."""
        self._write()

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
