"""Why a model fails: its worst images, classes that it never finds, and what limits remove."""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.evaluation.image_score import ImageScore
from axialseg.machine.whole_file import whole_file
from axialseg.metrics.image_quality import ImageQuality, image_quality
from axialseg.panoptic.categories import Categories

log = logging.getLogger(__name__)

NAMED = 5  # worst images that the log names
SAID = 10  # sentences about limits


class Diagnosis(pl.Callback):
    """Writes `images.csv`, worst images first, after each validation; at the end says what failed.

    The log names the worst images, the classes of which no segment was ever predicted, and what
    each limit of the post-processing has removed. It reads what `PanopticEvaluation` has counted,
    and must stand behind it in the list of callbacks.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the table and, at the end, the sentences."""
        counted = [c for c in trainer.callbacks if isinstance(c, PanopticEvaluation)]  # type: ignore[attr-defined]
        images = [image for callback in counted for image in callback.images]
        if trainer.sanity_checking or not trainer.is_global_zero or not images:
            return
        rated = [(image_quality(image.overlap), image) for image in images]
        rated.sort(key=lambda row: (row[0].pq, row[1].file_name))
        path = Path(trainer.default_root_dir) / "images.csv"
        _write(rated, path)
        is_last = trainer.global_step >= trainer.max_steps
        if is_last or trainer.state.fn != TrainerFn.FITTING:
            categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
            worst = (f"{Path(i.file_name).name} ({100 * q.pq:.1f})" for q, i in rated[:NAMED])
            log.info("Worst images by PQ: %s; all are in %s", ", ".join(worst), path.name)
            postprocess = getattr(pl_module, "postprocess", None)
            for sentence in sentences(images, categories, postprocess):
                log.info("%s", sentence)


def sentences(images: Sequence[ImageScore], categories: Categories, postprocess: Any) -> list[str]:
    """What failed, for people.

    Args:
        images: all that were scored.
        categories: the classes.
        postprocess: whose limits are named, if it has them.
    """
    true: set[int] = set()
    predicted: set[int] = set()
    removed: Counter[tuple[str, int]] = Counter()
    emptied: Counter[tuple[str, int]] = Counter()
    for image in images:
        overlap = image.overlap
        here = set(overlap.target_class[~overlap.target_is_crowd].tolist())
        left = set(overlap.predicted_class.tolist())
        true |= here
        predicted |= left
        for limit, counts in image.removed.items():
            removed.update({(limit, class_id): count for class_id, count in counts.items()})
            emptied.update((limit, class_id) for class_id in (here - left) & set(counts))
    names = {class_id: category.name for class_id, category in categories.by_class_id.items()}
    never = [names[key] for key in sorted(true - predicted)]
    said = []
    if never:
        said.append(f"Classes in the images that were never predicted: {', '.join(never)}")
    known = (key for key in removed if key[1] in names)
    rows = sorted(known, key=lambda key: (-emptied[key], -removed[key], key))
    for limit, class_id in rows[:SAID]:
        key = limit, class_id
        sentence = (
            f"{limit}{_value(postprocess, limit)} removed {_number(removed[key], 'segment')} of "
            f"`{names[class_id]}`"
        )
        if emptied[key]:
            sentence += f", and nothing of it is left in {_number(emptied[key], 'image')} with it"
        said.append(sentence)
    return said


def _value(postprocess: Any, limit: str) -> str:
    """The limit's value as on the command line; nothing where it has none."""
    for holder in (postprocess, getattr(postprocess, "merge", None)):
        if hasattr(holder, limit):
            return f"={getattr(holder, limit)}"
    return ""


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'s' * (count != 1)}"


def _write(rated: Sequence[tuple[ImageQuality, ImageScore]], path: Path) -> None:
    """Writes the table."""
    with whole_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["PQ", "found", "missed", "false", "image"])
        for quality, image in rated:
            counts = quality.matched, quality.missed, quality.false
            rows.writerow([f"{100 * quality.pq:.2f}", *counts, image.file_name])
