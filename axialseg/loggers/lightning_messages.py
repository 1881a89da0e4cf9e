"""Hides messages of Lightning that come in every run and need no action; others are shown."""

import logging
import warnings

# How lines begin that advertise other products, or repeat what our own first line says.
NEEDLESS_LINES = ("💡 Tip:", "GPU available:", "TPU available:")

# Beginnings of warnings, as regular expressions.
NEEDLESS_WARNINGS = (
    # The configuration chooses the number of workers; tiny data sets need none.
    r".*does not have many workers",
    # The machine has SLURM, and the job was not started by it.
    r"The `srun` command is available on your system but is not used",
    # Lightning's use of torch, not ours.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def quiet_lightning() -> None:
    """Filters these messages; call it before a Trainer is made. A second call changes nothing."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_needed)
    # It prints by itself what the root logger prints as well.
    logging.getLogger("lightning").handlers.clear()
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)


def _is_needed(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NEEDLESS_LINES)
