"""Weights & Biases: a logger that works with and without a key."""

import logging
import netrc
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

log = logging.getLogger(__name__)


def wandb_logger(
    folder: str,
    project: str = "axialseg",
    entity: str | None = None,
    name: str | None = None,
    mode: str | None = None,
) -> WandbLogger:
    """A logger that sends to the server if there is a key, and writes to the folder if not.

    The run's id is kept in `<folder>/wandb_run_id.txt`, so that a run resumed in its folder goes on
    in the same place. Only rank 0 logs.

    Args:
        folder: folder of the run; offline data go to `<folder>/wandb`.
        project: where the run is listed.
        entity: user or team; None is the key's own.
        name: of the run; None takes the last two parts of `folder`.
        mode: online, offline or disabled; None takes the environment's `WANDB_MODE`, else online.
    """
    finish_wandb()  # of an earlier job in this process: a sweep's jobs are runs of their own
    path = Path(folder).absolute()
    mode = mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not has_key():
        mode = "offline"
        rank_zero_info(
            f"No W&B key (WANDB_API_KEY or `wandb login`): logging to {path / 'wandb'}; "
            "`wandb sync` uploads it later."
        )
    path.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name or "/".join(path.parts[-2:]),
        save_dir=path,
        id=_run_id(path / "wandb_run_id.txt"),
        project=project,
        entity=entity,
        # Lightning's own `offline` would set WANDB_MODE for all later jobs of a sweep.
        mode=mode,
    )


def has_key() -> bool:
    """Whether `wandb` will find an API key: in `WANDB_API_KEY`, or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    home = Path("~").expanduser()
    for file in (os.environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        if file and Path(file).is_file():
            try:
                return netrc.netrc(file).authenticators(urlsplit(server).hostname or "") is not None
            except (netrc.NetrcParseError, OSError) as error:
                log.warning("%s cannot be read (%s); W&B logs offline", file, error)
                return False
    return False


def find_wandb_logger(trainer: pl.Trainer) -> WandbLogger | None:
    """The trainer's W&B logger, if it has one; use it on rank 0 only."""
    found = (logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
    return next(found, None)


@rank_zero_only
def finish_wandb(exit_code: int = 0) -> None:
    """Ends the W&B run of this process, if any; at the process's end W&B does so itself.

    Args:
        exit_code: 0, or another number for a job that failed.
    """
    if "wandb" in sys.modules:
        wandb = sys.modules["wandb"]
        if wandb.run is not None:
            wandb.finish(exit_code)


def _run_id(file: Path) -> str:
    """The id in `file`, or a new one, which rank 0 writes there."""
    if file.exists():
        return file.read_text().strip()
    run_id = secrets.token_hex(4)
    if getattr(rank_zero_only, "rank", 0) == 0:
        file.write_text(run_id + "\n")
    return run_id
