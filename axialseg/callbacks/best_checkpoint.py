"""The checkpoint with the best validation of a run."""

import json
import logging
import os
import shutil
from pathlib import Path

import lightning.pytorch as pl

from axialseg.callbacks.scores import write_json
from axialseg.machine.whole_file import whole_file

log = logging.getLogger(__name__)

BEST = "best.ckpt"


class BestCheckpoint(pl.Callback):
    """Keeps `checkpoints/best.ckpt`, and beside it `best.json` with its step and its score.

    It is the file that was saved before the validation under another name (a hard link where the
    file system has them), so it costs no time. Of equal scores the later one counts. A run that is
    resumed in its folder goes on comparing with `best.json`.

    Args:
        objective: key of `metrics.json`; more is better.
    """

    def __init__(self, objective: str) -> None:
        self.objective = objective

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the newest scores with the best ones."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        metrics, saved = _record(folder / "metrics.json"), folder / "checkpoints" / "last.ckpt"
        score = metrics.get(self.objective)
        is_of_now = metrics.get("step") == trainer.global_step
        if not is_of_now or score is None or saved.resolve().name != _name(trainer.global_step):
            return
        best = _record(folder / "checkpoints" / "best.json")
        if score < best.get(self.objective, score):
            return
        _copy(saved.resolve(), folder / "checkpoints" / BEST)
        found = {"step": trainer.global_step, self.objective: score}
        write_json(folder / "checkpoints" / "best.json", found)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says which one it was."""
        best = _record(Path(trainer.default_root_dir) / "checkpoints" / "best.json")
        if trainer.is_global_zero and best:
            score, step = best[self.objective], best["step"]
            log.info("Best validation: %s %.2f at step %d (best.ckpt)", self.objective, score, step)


def best_of(run: Path) -> tuple[Path, str] | None:
    """The best checkpoint of a run and what is known of it, as "step 400, PQ 41.20"; or None."""
    path = run / "checkpoints" / BEST
    facts = _record(path.with_suffix(".json"))
    if not path.is_file() or not facts:
        return None
    scores = ", ".join(f"{name} {value:.2f}" for name, value in facts.items() if name != "step")
    return path, f"step {facts['step']}, {scores}"


def _name(step: int) -> str:
    return f"step_{step}.ckpt"


def _record(file: Path) -> dict[str, float]:
    """Content of a JSON file; empty where there is none."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return {}


def _copy(source: Path, target: Path) -> None:
    """Gives the file a second name, in one move: an older one stays whole until then."""
    with whole_file(target) as draft:
        try:
            os.link(source, draft)
        except OSError:
            shutil.copyfile(source, draft)
