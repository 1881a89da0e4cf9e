"""Why a model fails: its worst images, and classes that it loses or never finds."""

import csv
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from axialseg.inference.predict import PanopticPrediction
from axialseg.machine.whole_file import whole_file
from axialseg.metrics.image_quality import ImageQuality, image_quality
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map

log = logging.getLogger(__name__)

NAMED = 5  # worst images that the log names


class _Seen(NamedTuple):
    """What a rank has seen of one image.

    Attributes:
        file_name: path of the image.
        quality: its scores.
        true: class ids in the ground truth.
        predicted: class ids of the predicted segments.
        lost: class ids that pixels were given, but of which no segment is left.
    """

    file_name: str
    quality: ImageQuality
    true: list[int]
    predicted: list[int]
    lost: list[int]


class Diagnosis(pl.Callback):
    """Writes `images.csv`, worst images first, after each validation; at the end says what failed.

    The log names the worst images, the classes of which no segment was ever predicted, and those
    that the network sees but the limits of the post-processing remove.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts anew."""
        self._seen: list[_Seen] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[PanopticPrediction],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Looks at the images of a batch."""
        void = trainer.datamodule.categories.ignore_class  # type: ignore[attr-defined]
        for prediction, target in zip(outputs, batch["segments"], strict=True):
            if target is None:
                continue
            segments = segments_from_panoptic_map(prediction.panoptic, void)
            left = np.unique(segments.class_ids)
            # Where the truth is void, whatever was removed is no loss.
            named = np.unique(prediction.semantic[target.id_map > 0])
            self._seen.append(
                _Seen(
                    prediction.file_name,
                    image_quality(segments, target),
                    np.unique(target.class_ids[~target.is_crowd]).tolist(),
                    left.tolist(),
                    [int(c) for c in named if c not in left and c != void],
                )
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collects the images of all ranks, writes the table and, at the end, the sentences."""
        if trainer.sanity_checking:
            return
        ranks = [self._seen] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, self._seen)
        seen = sorted(
            (image for rank in ranks for image in rank), key=lambda s: (s.quality.pq, s.file_name)
        )
        if not trainer.is_global_zero or not seen:
            return
        path = Path(trainer.default_root_dir) / "images.csv"
        _write(seen, path)
        is_last = trainer.global_step >= trainer.max_steps
        if is_last or trainer.state.fn != TrainerFn.FITTING:
            categories: Categories = trainer.datamodule.categories  # type: ignore[attr-defined]
            worst = (f"{Path(s.file_name).name} ({100 * s.quality.pq:.1f})" for s in seen[:NAMED])
            log.info("Worst images by PQ: %s; all are in %s", ", ".join(worst), path.name)
            postprocess = getattr(pl_module, "postprocess", None)
            for sentence in sentences(seen, categories, postprocess):
                log.info("%s", sentence)


def sentences(seen: list[_Seen], categories: Categories, postprocess: Any) -> list[str]:
    """What failed, for people.

    Args:
        seen: of all images.
        categories: the classes.
        postprocess: whose limits are named, if it has them.
    """
    true = Counter(class_id for image in seen for class_id in image.true)
    predicted = {class_id for image in seen for class_id in image.predicted}
    names = {class_id: category.name for class_id, category in categories.by_class_id.items()}
    never = [names[key] for key in sorted(true) if key not in predicted]
    said = []
    if never:
        said.append(f"Classes in the images that were never predicted: {', '.join(never)}")
    lost = Counter(class_id for image in seen for class_id in image.lost)
    for class_id, images in sorted(lost.items(), key=lambda item: -item[1]):
        if class_id in names:
            limits = _limits(postprocess, bool(categories.is_thing_table[class_id]))
            some = f"{images} image{'s' * (images > 1)}"
            said.append(f"{limits} removed all of `{names[class_id]}` in {some}")
    return said


def _limits(postprocess: Any, is_thing: bool) -> str:
    """The limits that can remove things, or stuff, with their values."""
    holders = [postprocess, getattr(postprocess, "merge", None)]
    kind = "thing" if is_thing else "stuff"
    names = ["center_threshold"] if is_thing else []
    names += ["class_threshold", f"{kind}_threshold", "pixel_threshold", f"{kind}_area_limit"]
    values = {
        name: getattr(holder, name) for name in names for holder in holders if hasattr(holder, name)
    }
    return " or ".join(f"{name}={value}" for name, value in values.items()) or "A limit"


def _write(seen: list[_Seen], path: Path) -> None:
    """Writes the table."""
    with whole_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["PQ", "found", "missed", "false", "image"])
        for image in seen:
            quality = image.quality
            counts = quality.matched, quality.missed, quality.false
            rows.writerow([f"{100 * quality.pq:.2f}", *counts, image.file_name])
