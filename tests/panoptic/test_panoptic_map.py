import numpy as np
import pytest

from axialseg.panoptic.panoptic_map import (
    CLASS_DIVISOR,
    PanopticSegments,
    runs,
    segments_from_panoptic_map,
)


def test_segments_ascend_and_void_is_zero() -> None:
    divisor = CLASS_DIVISOR
    panoptic_map = np.array(
        [[2 * divisor + 1, 0, 5 * divisor], [2 * divisor + 1, 2 * divisor + 2, 0]], np.int32
    )
    segments = segments_from_panoptic_map(panoptic_map, ignore_class=0)
    assert segments.id_map.tolist() == [[1, 0, 3], [1, 2, 0]]
    assert segments.id_map.dtype == np.int32
    assert segments.class_ids.tolist() == [2, 2, 5]
    assert segments.class_ids.dtype == np.int64
    assert not segments.is_crowd.any()
    assert segments.areas().tolist() == [2, 1, 1]
    assert segments.semantic_map(0).tolist() == [[2, 0, 5], [2, 2, 0]]


def test_void_above_the_classes() -> None:
    classes, instances = np.array([[11, 255, 3, 255]]), np.array([[1, 0, 0, 7]])
    panoptic_map = (classes * CLASS_DIVISOR + instances).astype(np.int32)
    segments = segments_from_panoptic_map(panoptic_map, ignore_class=255)
    assert segments.id_map.tolist() == [[2, 0, 1, 0]]
    assert segments.class_ids.tolist() == [3, 11]
    assert segments.semantic_map(255).tolist() == [[11, 255, 3, 255]]


def test_equals_sorting_every_pixel() -> None:
    rng = np.random.default_rng(0)
    panoptic_map = (
        rng.integers(0, 5, (31, 17)) * CLASS_DIVISOR + rng.integers(0, 3, (31, 17))
    ).astype("i4")
    segments = segments_from_panoptic_map(panoptic_map, ignore_class=3)
    values = np.unique(panoptic_map[panoptic_map // CLASS_DIVISOR != 3])
    for number, value in enumerate(values, start=1):
        assert ((segments.id_map == number) == (panoptic_map == value)).all()
    assert segments.class_ids.tolist() == (values // CLASS_DIVISOR).tolist()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_map(shape: tuple[int, int]) -> None:
    segments = segments_from_panoptic_map(np.zeros(shape, np.int32), ignore_class=0)
    assert segments.id_map.shape == shape
    assert len(segments.class_ids) == 0


def test_rows_without_pixels_have_area_zero() -> None:
    segments = PanopticSegments(np.array([[2]], np.int32), np.array([1, 1, 1]), np.zeros(3, bool))
    assert segments.areas().tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(7, 9), (1, 1), (0, 3)])
def test_runs_of_segments_are_painted_as_they_were(shape: tuple[int, int]) -> None:
    id_map = np.random.default_rng(0).integers(0, 3, shape).astype(np.int32)
    segments = PanopticSegments(id_map, np.array([5, 2]), np.array([True, False]))
    as_runs = segments.to_runs()
    assert as_runs.size == shape
    again = as_runs.paint()
    assert again.id_map.dtype == np.int32
    for one, other in zip(again, segments, strict=True):
        np.testing.assert_array_equal(one, other)


def test_runs_of_two_maps() -> None:
    one = np.array([[1, 1, 1], [1, 2, 2]])
    other = np.array([[7, 7, 8], [8, 8, 8]], np.uint8)
    starts, lengths = runs(one, other)
    assert starts.tolist() == [0, 2, 4]
    assert lengths.tolist() == [2, 2, 2]
    assert [array.tolist() for array in runs(np.zeros((0, 3), np.int32))] == [[], []]
