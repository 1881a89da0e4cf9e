"""PQ against the official scorer's stored results, a plain-loop restatement, and deeplab2."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from golden_data import our_panoptic
from numpy.typing import NDArray
from PIL import Image
from torch.multiprocessing.spawn import spawn

from axialseg.metrics.panoptic_quality import PanopticQuality, PanopticQualityResult
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = ["plain", "gt_void", "pred_void", "one_crowd", "many_crowds", "mixed", "repeated_stuff"]
# Two things, two stuff classes; class ids 1..4, void 0.
SMALL = contiguous_categories(
    (10 * number, name, number <= 2, (number, 0, 0)) for number, name in enumerate("abcd", start=1)
)


def read_folder(case: Path, name: str, categories: Categories) -> list[PanopticSegments]:
    """Reads one JSON + PNG folder of the goldens pixel by pixel value, without our own reader."""
    result = []
    for annotation in json.loads((case / f"{name}.json").read_text())["annotations"]:
        pixels = np.asarray(Image.open(case / name / annotation["file_name"])).astype(np.int64)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        rows = annotation["segments_info"]
        id_map = np.zeros(ids.shape, np.int32)
        for number, row in enumerate(rows, start=1):
            id_map[ids == row["id"]] = number
        class_ids = [categories.by_official_id[row["category_id"]].class_id for row in rows]
        crowds = [bool(row.get("iscrowd", 0)) for row in rows]
        result.append(
            PanopticSegments(id_map, np.array(class_ids, np.int64), np.array(crowds, bool))
        )
    return result


def golden_categories(case: Path) -> Categories:
    return contiguous_categories(
        (row["id"], row["name"], bool(row["isthing"]), tuple(row["color"]))
        for row in json.loads((case / "gt.json").read_text())["categories"]
    )


def score(
    categories: Categories, pairs: list[tuple[PanopticSegments, PanopticSegments]]
) -> PanopticQualityResult:
    metric = PanopticQuality(categories)
    for prediction, target in pairs:
        metric.update(segment_overlap(prediction, target))
    return metric.compute()


@pytest.mark.parametrize("case", CASES)
def test_official_goldens(case: str) -> None:
    folder = GOLDENS / "panopticapi" / case
    expected = json.loads((GOLDENS / "panopticapi" / "expected.json").read_text())[case]
    categories = golden_categories(folder)
    targets = read_folder(folder, "gt", categories)
    predictions = read_folder(folder, "pred", categories)
    result = score(categories, list(zip(predictions, targets, strict=True)))

    seen = 0
    for row in result.per_class:
        official = expected["per_class"].get(
            str(categories.by_class_id[row.class_id].official_id),
            {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0, "pq": 0.0, "sq": 0.0, "rq": 0.0},
        )
        assert (row.tp, row.fp, row.fn) == (official["tp"], official["fp"], official["fn"])
        assert row.iou == pytest.approx(official["iou"], abs=1e-9)
        for name in ("pq", "sq", "rq"):
            assert getattr(row, name) == pytest.approx(official[name], abs=1e-12)
        seen += official["tp"] + official["fp"] + official["fn"]
    assert seen > 20
    for group, name in ((result.all, "All"), (result.things, "Things"), (result.stuff, "Stuff")):
        assert group.n == expected[name]["n"]
        assert group.pq == pytest.approx(expected[name]["pq"], abs=1e-12)
        assert group.sq == pytest.approx(expected[name]["sq"], abs=1e-12)
        assert group.rq == pytest.approx(expected[name]["rq"], abs=1e-12)


def official_rule(
    prediction: PanopticSegments, target: PanopticSegments
) -> tuple[dict[int, float], Counter[int], Counter[int], Counter[int]]:
    """The official rule pixel by pixel and segment by segment: (iou sums, tp, fp, fn) by class."""
    pairs: Counter[tuple[int, int]] = Counter()
    target_area: Counter[int] = Counter()
    prediction_area: Counter[int] = Counter()
    for t, p in zip(
        target.id_map.ravel().tolist(), prediction.id_map.ravel().tolist(), strict=True
    ):
        pairs[t, p] += 1
        target_area[t] += 1
        prediction_area[p] += 1
    iou: dict[int, float] = {}
    tp: Counter[int] = Counter()
    fp: Counter[int] = Counter()
    fn: Counter[int] = Counter()
    target_matched, prediction_matched = set(), set()
    for t, class_id in enumerate(target.class_ids.tolist(), start=1):
        for p, predicted_class in enumerate(prediction.class_ids.tolist(), start=1):
            if class_id != predicted_class or target.is_crowd[t - 1]:
                continue
            union = target_area[t] + prediction_area[p] - pairs[t, p] - pairs[0, p]
            if pairs[t, p] and pairs[t, p] / union > 0.5:
                tp[class_id] += 1
                iou[class_id] = iou.get(class_id, 0.0) + pairs[t, p] / union
                target_matched.add(t)
                prediction_matched.add(p)
    crowd_of_class: dict[int, int] = {}
    for t, class_id in enumerate(target.class_ids.tolist(), start=1):
        if target.is_crowd[t - 1]:
            crowd_of_class[class_id] = t  # a later crowd replaces an earlier one
        elif t not in target_matched:
            fn[class_id] += 1
    for p, class_id in enumerate(prediction.class_ids.tolist(), start=1):
        exempt = pairs[0, p]
        if class_id in crowd_of_class:
            exempt += pairs[crowd_of_class[class_id], p]
        if p not in prediction_matched and not exempt / prediction_area[p] > 0.5:
            fp[class_id] += 1
    return iou, tp, fp, fn


def drop_empty(segments: PanopticSegments) -> PanopticSegments:
    """Renumbers so that each row has pixels, as a prediction must."""
    kept = segments.areas() > 0
    numbers = np.concatenate(([0], np.cumsum(kept) * kept)).astype(np.int32)
    return PanopticSegments(
        numbers[segments.id_map], segments.class_ids[kept], segments.is_crowd[kept]
    )


def random_segments(
    rng: np.random.Generator, count: int, classes: int, crowds: bool
) -> PanopticSegments:
    id_map = np.zeros((24, 32), np.int32)
    for number in range(1, count + 1):
        top, left = rng.integers(0, 20), rng.integers(0, 26)
        height, width = rng.integers(1, 16), rng.integers(1, 20)
        id_map[top : top + height, left : left + width] = number
    is_crowd = rng.random(count) < 0.4 if crowds else np.zeros(count, bool)
    return PanopticSegments(id_map, rng.integers(1, classes + 1, count), is_crowd)


def noisy_copy(rng: np.random.Generator, segments: PanopticSegments) -> PanopticSegments:
    id_map = np.roll(segments.id_map, rng.integers(-2, 3, 2), axis=(0, 1))
    id_map[rng.random(id_map.shape) < 0.1] = 0
    class_ids = segments.class_ids.copy()
    changed = rng.random(len(class_ids)) < 0.2
    class_ids[changed] = rng.integers(1, 5, changed.sum())
    return drop_empty(PanopticSegments(id_map, class_ids, np.zeros(len(class_ids), bool)))


def test_equals_plain_loops_on_random_maps() -> None:
    rng = np.random.default_rng(0)
    totals: Counter[str] = Counter()
    for image in range(150):
        # Few classes and many crowds, so that one class has several crowds, and several
        # segments of one stuff class occur; 0 segments is an image of only void.
        target = random_segments(rng, int(rng.integers(0, 12)), 1 + image % 4, crowds=True)
        prediction = (
            noisy_copy(rng, target)
            if image % 3
            else drop_empty(random_segments(rng, int(rng.integers(0, 8)), 4, crowds=False))
        )
        iou, tp, fp, fn = official_rule(prediction, target)
        for row in score(SMALL, [(prediction, target)]).per_class:
            c = row.class_id
            assert (row.tp, row.fp, row.fn) == (tp[c], fp[c], fn[c]), f"image {image}"
            assert row.iou == pytest.approx(iou.get(c, 0.0), abs=1e-12)
        totals.update(tp=tp.total(), fp=fp.total(), fn=fn.total())
    assert min(totals.values()) > 50


def segments(
    rows: list[list[int]], class_ids: list[int], crowds: tuple[int, ...] = ()
) -> PanopticSegments:
    is_crowd = np.zeros(len(class_ids), bool)
    is_crowd[list(crowds)] = True
    return PanopticSegments(np.array(rows, np.int32), np.array(class_ids, np.int64), is_crowd)


def counts(result: PanopticQualityResult, class_id: int) -> tuple[int, int, int]:
    row = next(row for row in result.per_class if row.class_id == class_id)
    return row.tp, row.fp, row.fn


def test_predicted_void_stays_in_the_union() -> None:
    target = segments([[1] * 10], [1])
    result = score(SMALL, [(segments([[1] * 6 + [0] * 4], [1]), target)])
    assert result.all.pq == pytest.approx(0.6)
    result = score(SMALL, [(segments([[1] * 3 + [0] * 7], [1]), target)])
    assert counts(result, 1) == (0, 1, 1)


def test_target_void_leaves_the_union() -> None:
    result = score(SMALL, [(segments([[1] * 10], [1]), segments([[1] * 4 + [0] * 6], [1]))])
    assert result.all.pq == 1.0


def test_only_the_last_crowd_of_a_class_excuses_a_prediction() -> None:
    prediction = segments([[1] * 10], [1])
    one_crowd = [[1] * 4 + [2] * 6]
    assert counts(score(SMALL, [(prediction, segments(one_crowd, [1, 1], (0, 1)))]), 1) == (0, 0, 0)
    # The same regions listed in the other order: the last crowd now covers 4 of 10 pixels.
    other_order = [[2] * 4 + [1] * 6]
    result = score(SMALL, [(prediction, segments(other_order, [1, 1], (0, 1)))])
    assert counts(result, 1) == (0, 1, 0)


def test_half_covered_is_not_more_than_half() -> None:
    prediction = segments([[1] * 10], [1])
    assert counts(score(SMALL, [(prediction, segments([[0] * 5 + [1] * 5], [2]))]), 1) == (0, 1, 0)
    assert counts(score(SMALL, [(prediction, segments([[0] * 6 + [1] * 4], [2]))]), 1) == (0, 0, 0)
    # IoU of exactly one half is no match.
    equal_halves = segments([[1] * 5 + [2] * 5], [1, 2])
    assert counts(score(SMALL, [(prediction, equal_halves)]), 1) == (0, 1, 1)


def test_listed_segment_without_pixels_is_a_false_negative() -> None:
    result = score(SMALL, [(segments([[1, 1]], [1]), segments([[1, 1]], [1, 2]))])
    assert counts(result, 2) == (0, 0, 1)


def test_empty_groups_are_zero_not_nan() -> None:
    with pytest.warns(UserWarning, match="before the ``update``"):
        result = PanopticQuality(SMALL).compute()
    assert result.all == result.things == result.stuff == (0.0, 0.0, 0.0, 0)
    only_void = segments([[0, 0]], [])
    assert score(SMALL, [(only_void, only_void)]).all.n == 0


def test_bad_input_is_refused() -> None:
    target = segments([[1, 1]], [1])
    metric = PanopticQuality(SMALL)
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 2\)"):
        metric.update(segment_overlap(segments([[1, 1, 1]], [1]), target))
    with pytest.raises(ValueError, match="segment 2 has no pixel"):
        metric.update(segment_overlap(segments([[1, 1]], [1, 2]), target))
    with pytest.raises(ValueError, match="class id 7"):
        metric.update(segment_overlap(segments([[1, 1]], [7]), target))
    with pytest.raises(ValueError, match="class id 0"):
        metric.update(segment_overlap(target, segments([[1, 1]], [0])))


@pytest.mark.parametrize(
    ("name", "categories", "divisor"), [("cityscapes", CITYSCAPES, 1000), ("coco", COCO, 256)]
)
def test_deeplab2_goldens(name: str, categories: Categories, divisor: int) -> None:
    """deeplab2 knows no crowds; without them its rule is the official one."""
    goldens = np.load(GOLDENS / "deeplab2" / "metrics.npz")

    void = categories.ignore_class

    def read(key: str) -> PanopticSegments:
        return segments_from_panoptic_map(our_panoptic(goldens[key], divisor), void)

    def table(result: PanopticQualityResult) -> NDArray[np.float64]:
        full = np.zeros((4, categories.semantic_channels))
        for row in result.per_class:
            full[:, row.class_id] = row.iou, row.tp, row.fn, row.fp
        return full

    metric = PanopticQuality(categories)
    for image in range(4):
        pair = read(f"{name}|pred{image}"), read(f"{name}|gt{image}")
        metric.update(segment_overlap(*pair))
        one = table(score(categories, [pair]))
        np.testing.assert_allclose(one, goldens[f"{name}|pq_image{image}_iou_tp_fn_fp"], atol=1e-9)
    result = metric.compute()
    totals = table(result)
    np.testing.assert_allclose(totals, goldens[f"{name}|pq_totals_iou_tp_fn_fp"], rtol=1e-6)
    pq, sq, rq, tp, fn, fp = goldens[f"{name}|pq_sq_rq_tp_fn_fp"]
    assert (result.all.pq, result.all.sq, result.all.rq) == pytest.approx((pq, sq, rq), rel=1e-6)
    assert (totals[1:].sum(1) / result.all.n).tolist() == pytest.approx([tp, fn, fp], rel=1e-6)


def test_states_sum_and_reset() -> None:
    target = segments([[1, 1, 2, 2]], [1, 3])
    metric = PanopticQuality(SMALL)
    for _ in range(3):
        metric.update(segment_overlap(target, target))
    assert metric.iou.dtype == torch.float64
    assert metric.tp.dtype == metric.fp.dtype == metric.fn.dtype == torch.int64
    assert metric.tp.tolist() == [3, 0, 3, 0]
    metric.reset()
    assert metric.tp.tolist() == [0, 0, 0, 0]


def random_pairs() -> list[tuple[PanopticSegments, PanopticSegments]]:
    rng = np.random.default_rng(1)
    targets = [random_segments(rng, 6, 4, crowds=True) for _ in range(5)]
    return [(noisy_copy(rng, target), target) for target in targets]


def score_shard(rank: int, folder: str) -> None:
    """One of two ranks: 3 images against 2, then each writes what it computed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    result = score(SMALL, random_pairs()[rank::2])
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    spawn(score_shard, (str(tmp_path),), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    alone = json.loads(json.dumps(score(SMALL, random_pairs())))
    for shared, single in zip(ranks[0][3], alone[3], strict=True):
        assert shared == pytest.approx(single, abs=1e-12)
    assert ranks[0][0] == pytest.approx(alone[0], abs=1e-12)
    assert alone[0][3] == 4
