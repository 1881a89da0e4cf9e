"""Colour jitter is seeded by its caller."""

import numpy as np
import pytest

from axialseg.datasets.color import ColorJitter

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_draws_follow_from_the_generator() -> None:
    before = IMAGE.copy()
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    a, b, again = (jitter(np.random.default_rng([0, n])).change(IMAGE) for n in (1, 2, 1))
    assert a.dtype == np.uint8
    assert a.shape == IMAGE.shape
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, IMAGE)
    np.testing.assert_array_equal(IMAGE, before)


def test_zero_strengths_change_nothing() -> None:
    result = ColorJitter(0, 0, 0, 0)(np.random.default_rng(0)).change(IMAGE)
    assert np.abs(result.astype(int) - IMAGE).max() <= 1


@pytest.mark.parametrize(("contrast", "margin"), [(0.2, None), (0.0, 0)])
def test_contrast_is_about_the_whole_image(contrast: float, margin: int | None) -> None:
    assert ColorJitter(contrast=contrast)(np.random.default_rng(0)).margin is margin
