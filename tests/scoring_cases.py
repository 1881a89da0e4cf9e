"""Random pairs of ground truth and prediction, hard on purpose: void, crowds, repeated classes."""

import json
from pathlib import Path

import numpy as np

from axialseg.evaluation.exports import FORMATS, ExportedImage, distinct_names
from axialseg.evaluation.image_score import score_image
from axialseg.evaluation.summary import Summary, summarize
from axialseg.metrics.average_precision import ScoredImage
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments

# Official ids out of the order of the class ids, with gaps.
SMALL = contiguous_categories(
    [
        (3, "cat", True, (200, 10, 10)),
        (8, "dog", True, (10, 200, 10)),
        (92, "grass", False, (10, 10, 10)),
        (95, "sky", False, (10, 10, 90)),
    ]
)
Pair = tuple[PanopticSegments, PanopticSegments]


def drop_empty(segments: PanopticSegments) -> PanopticSegments:
    """Renumbers so that each row has pixels, as a prediction must."""
    kept = segments.areas() > 0
    numbers = np.concatenate(([0], np.cumsum(kept) * kept)).astype(np.int32)
    return PanopticSegments(
        numbers[segments.id_map], segments.class_ids[kept], segments.is_crowd[kept]
    )


def random_pair(
    rng: np.random.Generator, shape: tuple[int, int], class_ids: tuple[int, ...], count: int
) -> tuple[PanopticSegments, PanopticSegments]:
    """(prediction, ground truth): rectangles over each other, the prediction a noisy copy."""
    height, width = shape
    id_map = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        id_map[top : top + tall, left : left + wide] = number
    target = drop_empty(
        PanopticSegments(id_map, rng.choice(class_ids, count), rng.random(count) < 0.15)
    )
    moved = np.roll(target.id_map, rng.integers(-2, 3, 2), axis=(0, 1))
    moved[rng.random(shape) < 0.05] = 0
    classes = target.class_ids.copy()
    changed = rng.random(len(classes)) < 0.2
    classes[changed] = rng.choice(class_ids, changed.sum())
    prediction = drop_empty(PanopticSegments(moved, classes, np.zeros(len(classes), bool)))
    return prediction, target


def scored(
    rng: np.random.Generator, prediction: PanopticSegments, target: PanopticSegments
) -> ScoredImage:
    """With random scores, some of them equal."""
    scores = rng.integers(0, 20, len(prediction.class_ids)) / 20
    return ScoredImage(segment_overlap(prediction, target), scores)


def exported(
    folder: Path, form: str, pairs: list[Pair], categories: Categories, files: list[str]
) -> tuple[list[str], Summary]:
    """Writes the predictions; gives the results' names and what we say about them."""
    rng = np.random.default_rng(0)
    export = FORMATS[form](categories)
    images, scores = [], []
    for number, ((prediction, target), file) in enumerate(zip(pairs, files, strict=True)):
        semantic = prediction.semantic_map(categories.ignore_class)
        values = rng.random(len(prediction.class_ids))
        image_id = number + 100 if categories is SMALL else Path(file).stem
        image = ExportedImage(number, image_id, file, prediction, values, semantic)
        images.append(json.loads(json.dumps(export.write(folder, image))))
        score = score_image(number, file, prediction, semantic, target, categories)
        scores.append(score._replace(scores=values))
    names = distinct_names(files)
    results = export.finish(folder, list(zip(range(len(pairs)), names, images, strict=True)))
    return results, summarize(scores, categories)


def assert_repeats(evaluation: Path, run: Path) -> None:
    """What a run has measured last is in the evaluation's `metrics.json`, to the last digit."""
    after, before = (json.loads((f / "metrics.json").read_text()) for f in (evaluation, run))
    after["classes"] = [
        {name: row[name] for name in known}
        for row, known in zip(after["classes"], before["classes"], strict=True)
    ]
    assert {name: after[name] for name in before} == before
