"""Weights & Biases: a logger that works with and without a key."""

import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from axialseg.errors import UserError
from axialseg.loggers.wandb_login import default_mode, has_key
from axialseg.machine.provenance import FILE as PROVENANCE
from axialseg.machine.provenance import SWEEP_JOB

log = logging.getLogger(__name__)


TABLE_SECONDS = 10  # for a table; one that takes more waits for a server that is away
PAUSE_SECONDS = 600  # then, until the next table is tried
FINISH_SECONDS = 600  # for the upload at the end, after which a device shall not wait any more


class RunLogger(WandbLogger):
    """Lightning's logger, which never ends a training; at its end it can store a checkpoint.

    A server that cannot be reached at the start makes the run an offline one. What W&B does not
    take later is lost to it, which is said once.

    Args:
        folder: of the run.
        checkpoint: file that is stored as an artifact, if it is there; None stores nothing.
        name: of the run; of an offline run that goes on, with the number of its part.
        mode: online, offline or disabled.
        arguments: of `WandbLogger`.
    """

    def __init__(
        self, folder: Path, checkpoint: Path | None, name: str, mode: str, **arguments: Any
    ) -> None:
        super().__init__(save_dir=folder, **arguments)
        self._wandb_init.pop("anonymous", None)  # W&B warns even of None
        self._checkpoint = checkpoint
        self._folder = folder
        self._first_name = name
        self._has_warned = False
        self._tables_from = 0.0
        self._set_mode(mode)

    def _set_mode(self, mode: str) -> None:
        self._id, part = _run_id(self._folder, mode)
        self._name = self._first_name if part == 1 else f"{self._first_name} part {part}"
        self._wandb_init |= {"id": self._id, "name": self._name, "mode": mode}

    @property
    def experiment(self) -> Any:
        """The run of W&B, which the first call starts.

        Raises:
            UserError: the server refuses the run.
        """
        import wandb
        from wandb.errors import AuthenticationError, CommError

        try:
            return super().experiment
        except wandb.Error as error:
            server = wandb.setup().settings.base_url
            reason = _reason(error)
            is_refusal = reason.startswith("4") or isinstance(error, AuthenticationError)
            if is_refusal or not isinstance(error, CommError):
                raise UserError(
                    f"W&B at {server} refuses the run ({reason}); check the key (`wandb login`, "
                    "WANDB_API_KEY), logger.wandb.entity and logger.wandb.project, or give "
                    "logger.wandb.mode=offline"
                ) from None
        log.warning(
            "W&B at %s cannot be reached (%s): logging to %s; `wandb sync` uploads it later",
            *(server, reason, self._folder / "wandb"),
        )
        self._set_mode("offline")
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers, tables or pictures at an optimiser step.

        Numbers and pictures are sent later if the server is away; W&B waits for it with tables.
        """
        start = time.monotonic()
        is_table = not all(isinstance(value, int | float | list) for value in metrics.values())
        if is_table and start < self._tables_from:
            return
        with self._never_ending():
            super().log_metrics(metrics, step)
        if time.monotonic() - start > TABLE_SECONDS:
            self._tables_from = time.monotonic() + PAUSE_SECONDS

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Stores the checkpoint; one that is stored already costs nothing."""
        super().finalize(status)
        if self._has_warned:
            _tell_how_to_upload(self.experiment)
        file = self._checkpoint
        if status != "success" or file is None or self._experiment is None or not file.is_file():
            return
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", "model")
        artifact.add_file(str(file.resolve()), file.name)
        with self._never_ending():
            self.experiment.log_artifact(artifact)

    @contextmanager
    def _never_ending(self) -> Iterator[None]:
        """Makes a failure of W&B a warning: it may raise anything when its server is lost."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not self._has_warned:
                log.warning("W&B has not taken all tables, training goes on: %s", _reason(error))
            self._has_warned = True


def _reason(error: Exception) -> str:
    """Text of an error in one line; of an answer of the server, its code and message."""
    text = " ".join(str(error).split())
    answer = re.search(r"error (\d{3}): .*?\"message\": ?\"([^\"]*)", text)
    return f"{answer[1]}: {answer[2]}" if answer else text


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
        mode: online, offline or disabled; None takes `WANDB_MODE`, `wandb offline`, else online.
        group: under which runs are listed together; None takes the sweep's folder, or the run's.
        checkpoint: ``best`` or ``last``: which one is stored as an artifact when the training ends.

    Raises:
        UserError: `checkpoint` is something else.
    """
    finish_wandb()  # of an earlier job in this process: a sweep's jobs are runs of their own
    path = Path(folder).absolute()
    if checkpoint not in (None, "best", "last"):
        raise UserError(f"logger.wandb.checkpoint={checkpoint}, but it must be best, last or null")
    mode = mode or default_mode()
    if mode == "online" and not has_key():
        mode = "offline"
        rank_zero_info(
            f"No W&B key (WANDB_API_KEY or `wandb login`): logging to {path / 'wandb'}; "
            "`wandb sync` uploads it later."
        )
    path.mkdir(parents=True, exist_ok=True)
    swept = _record(path / SWEEP_JOB).get("swept")
    place = "/".join(path.parts[-2:])
    if swept is not None:
        shown = (f"{key}={value}" for key, value in swept.items())
        name = name or " ".join([path.name, *shown])
        group = group or "/".join(path.parts[-3:-1])
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    return RunLogger(
        path,
        None if checkpoint is None else path / "checkpoints" / f"{checkpoint}.ckpt",
        name=name or place,
        # Lightning's own `offline` would set WANDB_MODE for all later jobs of a sweep.
        mode=mode,
        project=project,
        entity=entity,
        group=group or place,
        config={"run": _run_facts(path)} | ({} if swept is None else {"sweep": swept}),
    )


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
        run, start = wandb.run, time.monotonic()
        if run is not None:
            wandb.finish(exit_code)
            if 0 < run.settings.finish_timeout <= time.monotonic() - start:  # W&B says "synced"
                _tell_how_to_upload(run)


def _tell_how_to_upload(run: Any) -> None:
    """Of a run whose server did not take all of it."""
    log.warning(
        "W&B at %s may lack a part of this run; when it can be reached, "
        "`wandb sync --no-skip-online %s` uploads all of it",
        *(run.settings.base_url, os.path.relpath(run.settings.sync_dir)),
    )


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
