"""The rules by which shapes become a segmentation, and their counts."""

from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from axialseg.data_import import painting
from axialseg.data_import.painting import Shape, paint
from axialseg.data_import.polygons import DAMAGED, INNER, polygon_mask, run_length_mask
from axialseg.panoptic.categories import contiguous_categories

CATEGORIES = contiguous_categories(
    [(1, "car", True, (1, 1, 1)), (2, "road", False, (2, 2, 2)), (3, "rest", False, (3, 3, 3))]
)
SIZE = (6, 8)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def painted(
    shapes: list[Shape], rest: int | None = None
) -> tuple[list, list, list, dict[str, int]]:
    counts: Counter[str] = Counter()
    segments = paint(shapes, SIZE, CATEGORIES, rest, counts)
    told = {what: count for what, count in counts.items() if count}
    return segments.id_map, segments.class_ids.tolist(), segments.is_crowd.tolist(), told


def test_smaller_things_lie_over_larger_ones_and_things_over_stuff() -> None:
    shapes = [
        Shape(box(0, 0, 2, 2), 1, False),
        Shape(box(0, 0, 4, 4), 1, False),
        Shape(box(3, 3, 4, 4), 2, False),  # stuff, though the smallest
    ]
    id_map, class_ids, is_crowd, told = painted(shapes)
    assert class_ids == [1, 1]
    assert is_crowd == [False, False]
    assert (id_map[:2, :2] == 1).all()
    assert id_map[3, 3] == 2
    assert told == {painting.OVERLAP: 5, painting.HIDDEN: 1}


def test_of_two_of_one_size_the_later_is_on_top() -> None:
    shapes = [Shape(box(0, 0, 2, 2), 1, False), Shape(box(1, 1, 3, 3), 1, False)]
    id_map, *_ = painted(shapes)
    assert id_map[1, 1] == 2


def test_crowds_lie_below_and_stuff_is_one_segment() -> None:
    shapes = [
        Shape(box(0, 0, 1, 1), 1, True),
        Shape(box(0, 0, 6, 4), 2, False),
        Shape(box(2, 6, 3, 8), 2, False),
        Shape(box(5, 5, 6, 8), 1, True),
    ]
    id_map, class_ids, is_crowd, told = painted(shapes)
    assert class_ids == [2, 1]
    assert is_crowd == [False, True]
    assert id_map[0, 0] == id_map[2, 7] == 1
    assert id_map[5, 7] == 2
    assert told == {painting.OVERLAP: 1, painting.HIDDEN: 1}


def test_holes_stay_and_the_rest_may_be_a_class() -> None:
    ring = box(0, 0, 5, 5) & ~box(1, 1, 4, 4)
    id_map, class_ids, _, told = painted([Shape(ring, 1, False)], rest=3)
    assert class_ids == [3, 1]
    assert (id_map[1:4, 1:4] == 1).all()
    assert (id_map[ring] == 2).all()
    assert told == {painting.HOLES: 1}
    id_map, *_ = painted([Shape(ring, 1, False)])
    assert (id_map[1:4, 1:4] == 0).all()


def test_shapes_without_pixels_are_left_out() -> None:
    _, class_ids, _, told = painted([Shape(np.zeros(SIZE, bool), 1, False)])
    assert class_ids == []
    assert told == {painting.EMPTY: 1}


def test_polygons_are_united() -> None:
    counts: Counter[str] = Counter()
    outer, inner = [0, 0, 6, 0, 6, 6, 0, 6], [2, 2, 4, 2, 4, 4, 2, 4]
    mask = polygon_mask([outer, inner, [7, 0, 8, 0, 8, 1, 7, 1]], SIZE, counts)
    expected = coco_masks.decode(
        coco_masks.merge(coco_masks.frPyObjects([outer, [7, 0, 8, 0, 8, 1, 7, 1]], *SIZE))
    )
    np.testing.assert_array_equal(mask, expected.astype(bool))
    assert mask[3, 3]
    assert dict(counts) == {INNER: 1}


@pytest.mark.parametrize(
    "part",
    [
        [],
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        "abc",
        [1, 2, 3, 4, 5, None],
        [0, 0, 1, 1, float("nan"), 0],
    ],
)
def test_polygons_that_are_none(part: object) -> None:
    counts: Counter[str] = Counter()
    assert not polygon_mask([part], SIZE, counts).any()
    assert dict(counts) == {DAMAGED: 1}


def test_run_lengths() -> None:
    counts: Counter[str] = Counter()
    mask = box(1, 2, 4, 6)
    packed = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": list(SIZE), "counts": packed["counts"].decode()}
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate(([0], mask.ravel("F"), [2])))))
    plain = {"size": list(SIZE), "counts": [13, *lengths.tolist()]}
    assert sum(plain["counts"]) == mask.size
    for runs in (text, plain):
        np.testing.assert_array_equal(run_length_mask(runs, SIZE, counts), mask)
    assert not counts
    damaged = [
        *({"size": [5, 8], "counts": text["counts"]}, {"size": list(SIZE)}, {"counts": []}),
        *({"size": list(SIZE), "counts": [1, 2]}, {"size": list(SIZE), "counts": "\x7f\x7f~"}),
        *({"size": list(SIZE), "counts": [-2, 50]}, {"size": "ab", "counts": "c"}),
        {"size": list(SIZE), "counts": 7},
    ]
    for runs in damaged:
        assert not run_length_mask(runs, SIZE, counts).any(), runs
    assert counts[DAMAGED] == len(damaged)


def test_compressed_run_lengths_of_any_mask() -> None:
    rng = np.random.default_rng(0)
    for share in (0.01, 0.3, 0.5, 0.99):
        for size in ((1, 1), (7, 300), (400, 3), (90, 110)):
            mask = np.asfortranarray(rng.random(size) < share, np.uint8)
            packed = {"size": list(size), "counts": coco_masks.encode(mask)["counts"].decode()}
            counts: Counter[str] = Counter()
            np.testing.assert_array_equal(run_length_mask(packed, size, counts), mask > 0)
            assert not counts
