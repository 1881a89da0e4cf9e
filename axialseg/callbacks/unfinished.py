"""Lets an evaluation that was interrupted go on with the images that are missing."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from axialseg.callbacks.best_checkpoint import best_of
from axialseg.checkpoints.run_checkpoints import newest_checkpoint
from axialseg.evaluation.unfinished import finished_images, open_unfinished, unfinished_folder

log = logging.getLogger(__name__)

# Settings that the predictions depend on, or what is kept of them.
DECISIVE = (
    *("seed", "run", "ckpt", "images", "model", "data", "callbacks", "scales", "flip", "tile"),
    *("tile_overlap", "fold_batch_norms", "compile"),
)


class UnfinishedEvaluation(pl.Callback):
    """Keeps an evaluation's results so far in `<output>/unfinished/` until it has ended.

    The same command, with the same checkpoint, then goes on. Put it before the callbacks that
    score and write, which use that folder if it is there.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Opens the folder and hands out the images that are missing."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "validate" or not hasattr(data, "val_indices"):
            return
        missing: list[int] = []
        if trainer.is_global_zero:
            fingerprint = evaluation_fingerprint(dict(pl_module.hparams))
            done = finished_images(open_unfinished(trainer.default_root_dir, fingerprint))
            count = len(data.val_dataset)
            missing = [index for index in range(count) if index not in done]
            if done:
                log.info("%d of %d images are done already.", len(done), count)
            # Each rank needs an image to take part in what follows.
            missing += sorted(done)[: max(trainer.world_size - len(missing), 0)]
        data.val_indices = trainer.strategy.broadcast(missing)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes the folder."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            shutil.rmtree(Path(trainer.default_root_dir) / "unfinished", ignore_errors=True)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """Says how to go on."""
        folder = unfinished_folder(trainer.default_root_dir)
        if not trainer.is_global_zero or folder is None:
            return
        done = len(finished_images(folder))
        if done == len(trainer.datamodule.val_dataset):  # type: ignore[attr-defined]
            log.warning(
                "All %d images are done, but not all results are written. Give the same command "
                "again to write them.",
                done,
            )
            return
        log.warning(
            "Stopped after %d of %d images; no scores were written. Give the same command again to "
            "go on with the others.",
            done,
            len(trainer.datamodule.val_dataset),  # type: ignore[attr-defined]
        )


def evaluation_fingerprint(config: dict[str, Any]) -> str:
    """What two evaluations must share so that one may go on with the other's results.

    Args:
        config: composed, plain.
    """
    facts = {name: config.get(name) for name in DECISIVE}
    run = Path(str(config.get("run")))
    best = best_of(run)
    checkpoint = config.get("ckpt") or (newest_checkpoint(run) if best is None else best[0])
    if checkpoint is not None and Path(checkpoint).is_file():
        state = Path(checkpoint).stat()
        facts["checkpoint"] = (state.st_size, state.st_mtime_ns)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
