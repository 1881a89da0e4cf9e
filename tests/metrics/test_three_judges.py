"""Ours, the official rule spelled out, and hotcoco count alike; and where other scorers differ.

The official rule is `official_rule` of `test_panoptic_quality.py`, which the stored results of
panopticapi pin. Each case of the second part stands in docs/evaluation.md.
"""

import contextlib
import io
from collections import Counter

import numpy as np
import pytest
import torch
from hotcoco import COCO
from hotcoco.panoptic import PanopticEval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from scoring_cases import SMALL, Pair, random_pair
from test_panoptic_quality import official_rule, segments
from torchmetrics.detection import PanopticQuality as TorchmetricsQuality

from axialseg.metrics.panoptic_quality import PanopticQuality, PanopticQualityResult
from axialseg.metrics.segment_overlap import run_overlap, segment_overlap
from axialseg.panoptic.panoptic_map import PanopticSegments

EXAMPLES, IMAGES = 500, 20  # 10,000 images in all


def ours(pairs: list[Pair]) -> PanopticQualityResult:
    metric = PanopticQuality(SMALL)
    for prediction, target in pairs:
        metric.update(segment_overlap(prediction, target))
    return metric.compute()


def hotcoco_counts(pairs: list[Pair]) -> dict[int, dict[str, float]]:
    """Official category id -> its counts and sums."""
    truths, found = [], []
    for image, (prediction, target) in enumerate(pairs, start=1):
        for rows, one in ((truths, target), (found, prediction)):
            for row, class_id in enumerate(one.class_ids.tolist()):
                mask = rle.encode(np.asfortranarray(one.id_map == row + 1, np.uint8))
                entry = {
                    "image_id": image,
                    "category_id": SMALL.by_class_id[class_id].official_id,
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                }
                if rows is found:
                    entry["score"] = 1.0
                else:
                    entry |= {"id": len(rows) + 1, "iscrowd": int(one.is_crowd[row])}
                    entry["area"] = int(rle.area(mask))
                    entry["bbox"] = rle.toBbox(mask).tolist()
                rows.append(entry)
    height, width = pairs[0][0].id_map.shape
    truth = COCO(
        {
            "images": [
                {"id": n, "height": height, "width": width} for n in range(1, len(pairs) + 1)
            ],
            "categories": [
                {"id": c.official_id, "name": c.name, "isthing": int(c.is_thing)}
                for c in SMALL.classes
            ],
            "annotations": truths,
        }
    )
    evaluation = PanopticEval(truth, truth.load_res(found))
    evaluation.evaluate()
    return {int(key): value for key, value in evaluation.results()["per_class"].items()}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 9),
    width=st.integers(1, 12),
    classes=st.sets(st.sampled_from(SMALL.class_ids), min_size=1).map(lambda s: tuple(sorted(s))),
    most=st.integers(0, 9),
)
def test_three_judges_agree(
    seed: int, height: int, width: int, classes: tuple[int, ...], most: int
) -> None:
    rng = np.random.default_rng(seed)
    pairs = [
        random_pair(rng, (height, width), classes, int(rng.integers(0, most + 1)))
        for _ in range(IMAGES)
    ]
    iou: Counter[int] = Counter()
    counts = [Counter[int]() for _ in range(3)]
    for pair in pairs:
        overlaps = run_overlap(*(one.to_runs() for one in pair)), segment_overlap(*pair)
        assert (overlaps[0].pixels == overlaps[1].pixels).all()
        sums, *others = official_rule(*pair)
        for class_id, value in sums.items():
            iou[class_id] += value
        for total, one in zip(counts, others, strict=True):
            total.update(one)
    result = ours(pairs)
    theirs = hotcoco_counts(pairs) if any(len(p.class_ids) for p, _ in pairs) else {}
    for row in result.per_class:
        assert [row.tp, row.fp, row.fn] == [count[row.class_id] for count in counts]
        assert row.iou == pytest.approx(iou[row.class_id], abs=1e-9)
        if theirs:
            other = theirs[SMALL.by_class_id[row.class_id].official_id]
            assert [row.tp, row.fp, row.fn] == [other["tp"], other["fp"], other["fn"]]
            assert row.iou == pytest.approx(other["iou"], abs=1e-9)


def torchmetrics_pq(prediction: PanopticSegments, target: PanopticSegments) -> float:
    """Things are classes 1 and 2; void is class 99 on both sides."""
    metric = TorchmetricsQuality(things={1, 2}, stuffs={3, 4}, allow_unknown_preds_category=True)
    maps = []
    for one in (prediction, target):
        classes = np.append(99, one.class_ids)[one.id_map]
        maps.append(torch.from_numpy(np.stack([classes, one.id_map], -1))[None])
    return float(metric(*maps))


def test_torchmetrics_forgives_predicted_void() -> None:
    """100 pixels, 60 of them predicted right and 40 void: IoU 0.6. torchmetrics says 1."""
    target = segments([[1] * 10] * 10, [1])
    prediction = segments([[1] * 6 + [0] * 4] * 10, [1])
    assert ours([(prediction, target)]).all.pq == pytest.approx(0.6)
    assert torchmetrics_pq(prediction, target) == 1.0
    # With 30 of 100 pixels there is no match at all.
    prediction = segments([[1] * 3 + [0] * 7] * 10, [1])
    assert ours([(prediction, target)]).all.pq == 0.0
    assert torchmetrics_pq(prediction, target) == 1.0


def test_averages_over_absent_classes_are_smaller() -> None:
    """Two of four classes occur, both are perfect: PQ 100, and 50 where the others count as 0."""
    target = segments([[1] * 5 + [2] * 5], [1, 3])
    result = ours([(target, target)])
    assert result.all.pq == 1.0
    assert result.all.n == 2
    assert np.mean([row.pq for row in result.per_class]) == 0.5


def test_a_crowd_excuses_its_own_class_alone() -> None:
    """A cat on a crowd of cats is excused; a dog there is false, unless crowds are void for all."""
    target = segments([[1] * 8 + [2] * 2], [1, 3], crowds=(0,))
    cat, dog = (segments([[1] * 8 + [2] * 2], [class_id, 3]) for class_id in (1, 2))
    assert ours([(cat, target)]).all.pq == 1.0
    result = ours([(dog, target)])
    assert result.all.pq == 0.5
    assert next(row.fp for row in result.per_class if row.class_id == 2) == 1
    void = segments([[0] * 8 + [1] * 2], [3])
    assert ours([(dog, void)]).all.pq == 1.0


def test_pq_is_no_product_of_averages() -> None:
    """Mean PQ is the mean of the classes' PQ, not mean SQ times mean RQ."""
    target = segments([[1] * 10, [2] * 10, [3] * 10], [1, 1, 3])
    prediction = segments([[1] * 6 + [0] * 4, [0] * 10, [2] * 10], [1, 3])
    result = ours([(prediction, target)])
    assert result.all.pq == pytest.approx((0.6 / 1.5 + 1) / 2)
    assert result.all.sq * result.all.rq == pytest.approx(0.8 * (1 / 1.5 + 1) / 2)


def test_one_image_at_a_time_is_another_number() -> None:
    """Counts are summed over the data set; the mean of the images' PQ differs."""
    full = segments([[1] * 10], [1])
    part = segments([[1] * 6 + [0] * 4], [1])
    two = segments([[1] * 5 + [2] * 5], [1, 1])
    pairs = [(full, full), (part, full), (two, full)]
    alone = [ours([pair]).all.pq for pair in pairs]
    assert ours(pairs).all.pq == pytest.approx(1.6 / (2 + 0.5 * 2 + 0.5 * 1))
    assert np.mean(alone) == pytest.approx(1.6 / 3)


def test_hotcoco_prints_a_table_that_has_dashes() -> None:
    target = segments([[1] * 10], [1])
    with contextlib.redirect_stdout(io.StringIO()):
        counts = hotcoco_counts([(target, target)])
    assert counts[95]["pq"] == -1.0  # which is its word for "does not occur"
