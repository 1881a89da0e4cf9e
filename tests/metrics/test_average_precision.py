"""Mask AP against deeplab2's stored results, pycocotools on masks, and the Cityscapes script."""

import contextlib
import io
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script
from cityscapesscripts.evaluation.instances2dict import instances2dict
from golden_data import arrays, our_panoptic, unit
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval
from scoring_cases import random_pair, scored

from axialseg.metrics.average_precision import (
    ScoredImage,
    average_precision,
    cityscapes_average_precision,
    coco_average_precision,
)
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import (
    CLASS_DIVISOR,
    PanopticSegments,
    segments_from_panoptic_map,
)
from axialseg.postprocess.segment_scores import segment_scores

THINGS = contiguous_categories((n, f"thing {n}", n < 4, (n, 0, 0)) for n in range(1, 6))


@pytest.mark.parametrize(
    ("name", "categories", "divisor"), [("cityscapes", CITYSCAPES, 1000), ("coco", COCO, 256)]
)
def test_deeplab2_goldens(name: str, categories: Categories, divisor: int) -> None:
    goldens = arrays("metrics")
    images = []
    for number in range(4):
        truth, predicted, is_crowd, instance_score = (
            goldens[f"{name}|{key}{number}"] for key in ("gt", "pred", "is_crowd", "instance_score")
        )
        truth, predicted = our_panoptic(truth, divisor), our_panoptic(predicted, divisor)
        target = segments_from_panoptic_map(truth, categories.ignore_class)
        crowds = [is_crowd[target.id_map == n + 1].any() for n in range(len(target.class_ids))]
        target = target._replace(is_crowd=np.array(crowds, bool))
        prediction = segments_from_panoptic_map(predicted, categories.ignore_class)
        classes = predicted // CLASS_DIVISOR
        if name == "coco":
            probability = goldens[f"coco|semantic_prob{number}"]
        else:
            tag = str(goldens[f"cityscapes|semantic_prob_seed_tag{number}"])
            table = unit(tag, (60, 80, 19))
            places = np.where(classes == 255, 0, classes)[..., None]
            probability = np.take_along_axis(table, places, -1)[..., 0]
        scores = segment_scores(predicted, probability, instance_score, categories.ignore_class)
        images.append(ScoredImage(segment_overlap(prediction, target), scores))
    result = coco_average_precision(images, categories)
    expected = np.where(goldens[f"{name}|ap_12"] < 0, np.nan, goldens[f"{name}|ap_12"])[:6]
    np.testing.assert_allclose(result[:6], expected, atol=1e-6)
    assert result.ap > 0.1


def pycocotools(
    pairs: list[tuple[PanopticSegments, PanopticSegments]],
    scores: list[NDArray[np.float64]],
    categories: Categories,
) -> NDArray[np.float64]:
    """Its own evaluation of run-length coded masks."""
    annotations, found = [], []
    height, width = pairs[0][0].id_map.shape
    for image, (prediction, target) in enumerate(pairs):
        for segments, rows in ((target, annotations), (prediction, found)):
            for row, class_id in enumerate(segments.class_ids.tolist()):
                mask = masks.encode(np.asfortranarray(segments.id_map == row + 1, np.uint8))
                if class_id not in categories.thing_ids:
                    continue
                entry = {"image_id": image, "category_id": class_id, "segmentation": mask}
                if rows is found:
                    entry["score"] = float(scores[image][row])
                else:
                    entry["area"] = float(masks.area(mask))
                    entry["id"] = len(rows) + 1
                    entry["iscrowd"] = int(segments.is_crowd[row])
                rows.append(entry)
    truth = CocoFile()
    truth.dataset = {
        "images": [{"id": n, "height": height, "width": width} for n in range(len(pairs))],
        "categories": [{"id": n} for n in categories.thing_ids],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (70, 90) if seed % 2 else (150, 170)
    pairs = [random_pair(rng, shape, (1, 2, 3, 4, 5), int(rng.integers(1, 14))) for _ in range(30)]
    images = [scored(rng, *pair) for pair in pairs]
    ours = np.array(coco_average_precision(images, THINGS)[:6])
    theirs = pycocotools(pairs, [image.scores for image in images], THINGS)[:6]
    assert ours.tolist() == np.where(theirs < 0, np.nan, theirs).tolist() or np.array_equal(
        ours, np.where(theirs < 0, np.nan, theirs), equal_nan=True
    )
    assert ours[0] > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_where_two_things_share_a_prediction(seed: int) -> None:
    """Tiny masks often have an IoU of exactly 0.5, and a crowd takes several predictions."""
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng, (3, 5), (1, 2), int(rng.integers(1, 7))) for _ in range(150)]
    images = [scored(rng, *pair) for pair in pairs]
    ours = np.array(coco_average_precision(images, THINGS)[:6])
    theirs = pycocotools(pairs, [image.scores for image in images], THINGS)[:6]
    np.testing.assert_array_equal(ours, np.where(theirs < 0, np.nan, theirs))


def test_more_than_100_things_of_a_class_are_cut_as_pycocotools_does() -> None:
    rng = np.random.default_rng(5)
    id_map = np.arange(1, 151, dtype=np.int32).reshape(10, 15).repeat(4, 0).repeat(4, 1)
    target = PanopticSegments(id_map, np.full(150, 1), np.zeros(150, bool))
    scores = rng.random(150)
    ours = coco_average_precision([ScoredImage(segment_overlap(target, target), scores)], THINGS)
    theirs = pycocotools([(target, target)], [scores], THINGS)
    assert ours.ap == theirs[0]
    assert ours.ap < 0.7


def cityscapes_script(
    folder: Path, pairs: list[tuple[PanopticSegments, PanopticSegments]], images: list[ScoredImage]
) -> NDArray[np.float64]:
    """AP table [classes, IoUs] of the official script, from files as the server takes them."""
    truth_files, prediction_files = [], []
    for number, ((prediction, target), image) in enumerate(zip(pairs, images, strict=True)):
        ids = np.zeros(target.id_map.shape, np.int32)
        for row, class_id in enumerate(target.class_ids.tolist()):
            label = CITYSCAPES.by_class_id[class_id].official_id
            alone = target.is_crowd[row] or class_id not in CITYSCAPES.thing_ids
            ids[target.id_map == row + 1] = label if alone else 1000 * label + row
        path = folder / f"city_000000_{number:06d}_gtFine_instanceIds.png"
        Image.fromarray(ids.astype(np.uint16)).save(path)
        truth_files.append(str(path))
        lines = []
        for row, class_id in enumerate(prediction.class_ids.tolist()):
            name = f"mask_{number}_{row}.png"
            Image.fromarray(((prediction.id_map == row + 1) * 255).astype(np.uint8)).save(
                folder / name
            )
            label = CITYSCAPES.by_class_id[class_id].official_id
            lines.append(f"{name} {label} {image.scores[row]!s}\n")
        text = folder / f"city_000000_{number:06d}.txt"
        text.write_text("".join(lines))
        prediction_files.append(str(text))
    arguments = SimpleNamespace(**vars(script.args))
    arguments.quiet = True
    arguments.predictionPath = str(folder)
    script.setInstanceLabels(arguments)
    instances = instances2dict(truth_files)
    matches = script.matchGtWithPreds(prediction_files, truth_files, instances, arguments)
    return script.evaluateMatches(matches, arguments)[0]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_cityscapes_script(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The script asks for it, and NumPy has taken it away.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    rng = np.random.default_rng(seed)
    classes = (0, 8, 11, 13, 14) if seed else (0, 11, 12, 13, 14, 15, 16, 17, 18)
    pairs = [random_pair(rng, (40, 60), classes, int(rng.integers(0, 12))) for _ in range(8)]
    # A group has one value for each class in such a file, so that all its parts are one segment.
    pairs = [(prediction, one_group_each(target)) for prediction, target in pairs]
    images = [scored(rng, *pair) for pair in pairs]
    table = cityscapes_script(tmp_path, pairs, images)
    ours = average_precision(images, CITYSCAPES)
    assert ours == cityscapes_average_precision(images, CITYSCAPES) or math.isnan(ours.small)
    np.testing.assert_allclose(ours.per_class, table.mean(1), rtol=1e-12, equal_nan=True)
    assert ours.ap == pytest.approx(np.nanmean(table), rel=1e-12)
    assert ours.ap50 == pytest.approx(np.nanmean(table[:, 0]), rel=1e-12)
    assert ours.ap75 == pytest.approx(np.nanmean(table[:, 5]), rel=1e-12)
    assert ours.ap > 0.05


def one_group_each(target: PanopticSegments) -> PanopticSegments:
    """Merges the crowds of a class, and the segments of a stuff class, into the first one."""
    alone = target.is_crowd | ~CITYSCAPES.is_thing_table[target.class_ids]
    numbers = np.arange(len(target.class_ids) + 1, dtype=np.int32)
    for row in np.flatnonzero(alone).tolist():
        same = np.flatnonzero(alone & (target.class_ids == target.class_ids[row]))
        numbers[row + 1] = same[0] + 1
    return target._replace(id_map=numbers[target.id_map])


def test_nothing_to_find_is_no_zero() -> None:
    rng = np.random.default_rng(0)
    images = [scored(rng, *random_pair(rng, (30, 30), (4, 5), 5))]
    for result in (coco_average_precision(images, THINGS), coco_average_precision([], THINGS)):
        assert all(map(math.isnan, (*result[:6], *result.per_class)))
    images = [scored(rng, *random_pair(rng, (30, 30), (0, 1), 5))]
    result = cityscapes_average_precision(images, CITYSCAPES)
    assert all(map(math.isnan, (*result[:6], *result.per_class)))
