"""Weights & Biases: a logger that works with and without a key."""

import json
import logging
import netrc
import os
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from axialseg.errors import UserError
from axialseg.machine.provenance import FILE as PROVENANCE
from axialseg.machine.provenance import SWEEP_JOB

log = logging.getLogger(__name__)


class RunLogger(WandbLogger):
    """Lightning's logger; at the end of a training it can also store a checkpoint.

    Args:
        checkpoint: file that is stored as an artifact, if it is there; None stores nothing.
        arguments: of `WandbLogger`.
    """

    def __init__(self, checkpoint: Path | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._checkpoint = checkpoint

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Stores the checkpoint; one that is stored already costs nothing."""
        super().finalize(status)
        file = self._checkpoint
        if status != "success" or file is None or self._experiment is None or not file.is_file():
            return
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", "model")
        artifact.add_file(str(file.resolve()), file.name)
        self.experiment.log_artifact(artifact)


def wandb_logger(
    folder: str,
    project: str = "axialseg",
    entity: str | None = None,
    name: str | None = None,
    mode: str | None = None,
    group: str | None = None,
    checkpoint: str | None = None,
) -> WandbLogger:
    """A logger that sends to the server if there is a key, and writes to the folder if not.

    Ids are kept in `<folder>/wandb_run_id.txt`, so that a run resumed in its folder goes on in the
    same place. What is written offline is uploaded later as one piece, which would replace a run of
    the same id; so each offline start after the first is a run of its own, in the same group. Under
    a `wandb agent` the id is the agent's. Only rank 0 logs.

    The run's configuration also has ``run`` (command, revision of the sources, folder) and, for the
    job of a sweep, ``sweep`` (the swept keys with their values).

    Args:
        folder: folder of the run; offline data go to `<folder>/wandb`.
        project: where the run is listed.
        entity: user or team; None is the key's own.
        name: of the run; None takes the last two parts of `folder`, or the number of a sweep's job
            and its swept values.
        mode: online, offline or disabled; None takes the environment's `WANDB_MODE`, else online.
        group: under which runs are listed together; None takes the sweep's folder, or the run's.
        checkpoint: ``best`` or ``last``: which one is stored as an artifact when the training ends.

    Raises:
        UserError: `checkpoint` is something else.
    """
    finish_wandb()  # of an earlier job in this process: a sweep's jobs are runs of their own
    path = Path(folder).absolute()
    if checkpoint not in (None, "best", "last"):
        raise UserError(f"logger.wandb.checkpoint={checkpoint}, but it must be best, last or null")
    mode = mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not has_key():
        mode = "offline"
        rank_zero_info(
            f"No W&B key (WANDB_API_KEY or `wandb login`): logging to {path / 'wandb'}; "
            "`wandb sync` uploads it later."
        )
    path.mkdir(parents=True, exist_ok=True)
    run_id, part = _run_id(path, mode)
    swept = _record(path / SWEEP_JOB).get("swept")
    place = "/".join(path.parts[-2:])
    if swept is not None:
        shown = (f"{key}={value}" for key, value in swept.items())
        name = name or " ".join([path.name, *shown])
        group = group or "/".join(path.parts[-3:-1])
    name = name or place
    return RunLogger(
        None if checkpoint is None else path / "checkpoints" / f"{checkpoint}.ckpt",
        name=name if part == 1 else f"{name} part {part}",
        save_dir=path,
        id=run_id,
        project=project,
        entity=entity,
        group=group or place,
        config={"run": _run_facts(path)} | ({} if swept is None else {"sweep": swept}),
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


def _run_id(folder: Path, mode: str) -> tuple[str, int]:
    """Id of the run, which rank 0 writes into the folder, and the number of its offline part."""
    if "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"], 1
    file = folder / "wandb_run_id.txt"
    ids = file.read_text().split() if file.exists() else []
    if ids:
        is_offline = any(folder.glob(f"wandb/offline-run-*-{ids[-1]}"))
        is_online = any(folder.glob(f"wandb/run-*-{ids[-1]}"))
        if mode == "disabled" or not (is_offline or (is_online and mode == "offline")):
            return ids[-1], len(ids)
    ids.append(f"{ids[0]}-{len(ids) + 1}" if ids else secrets.token_hex(4))
    if getattr(rank_zero_only, "rank", 0) == 0:
        file.write_text("\n".join(ids) + "\n")
    return ids[-1], len(ids)


def _run_facts(folder: Path) -> dict[str, Any]:
    """What this start of the run was made with."""
    starts = _record(folder / PROVENANCE)
    newest: dict[str, Any] = starts[-1] if isinstance(starts, list) and starts else {}
    kept = ("command", "revision", "changes")
    return {"folder": str(folder)} | {name: newest[name] for name in kept if name in newest}


def _record(file: Path) -> Any:
    """Content of a JSON file; empty where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
