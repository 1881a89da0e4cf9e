"""Colour jitter is seeded by its caller."""

import numpy as np

from axialseg.datasets.color import ColorJitter


def test_draws_follow_from_the_generator() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    before = image.copy()
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    a = jitter(image, np.random.default_rng([0, 1]))
    b = jitter(image, np.random.default_rng([0, 2]))
    again = jitter(image, np.random.default_rng([0, 1]))
    assert a.dtype == np.uint8
    assert a.shape == image.shape
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, image)
    np.testing.assert_array_equal(image, before)


def test_zero_strengths_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    result = ColorJitter(0, 0, 0, 0)(image, np.random.default_rng(0))
    assert np.abs(result.astype(int) - image).max() <= 1
