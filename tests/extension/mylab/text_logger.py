"""A logger: one line of text for each logged value. Lightning's loggers work as they are."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class TextLogger(Logger):
    name = "text"
    version = ""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.file = Path(folder) / "values.txt"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.file.open("a") as file:
            file.writelines(f"{step} {name} {value}\n" for name, value in metrics.items())
