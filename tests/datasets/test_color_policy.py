"""AutoAugment's colour operations against deeplab2's, and the policy's draws."""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from axialseg.datasets.color_policy import (
    OPERATIONS,
    SIMPLE_CLASSIFICATION_POLICY,
    ColorPolicy,
)
from axialseg.errors import UserError

GOLDENS = Path(__file__).parents[1] / "goldens" / "deeplab2"
ARRAYS = np.load(GOLDENS / "targets.npz")
POLICIES = json.loads((GOLDENS / "targets.json").read_text())["autoaugment"]["policies"]
IMAGE = ARRAYS["autoaugment|in"]
CASES = [key.split("|")[2] for key in ARRAYS.files if key.startswith("autoaugment|out|")]


def test_every_operation_has_goldens() -> None:
    assert {case.split("_level")[0] for case in CASES} == set(OPERATIONS)


@pytest.mark.parametrize("case", CASES)
def test_operation_equals_deeplab2(case: str) -> None:
    name, level = case.split("_level")
    before = IMAGE.copy()
    result = OPERATIONS[name].change(IMAGE, float(level))
    np.testing.assert_array_equal(result, ARRAYS[f"autoaugment|out|{case}"])
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_margin_is_all_that_a_window_needs(name: str) -> None:
    y, x = np.mgrid[:90, :110]
    image = np.stack([y + x, 2 * y, 255 - 2 * x], -1).astype(np.uint8)  # flat, no range twice
    image[40:50, 40:80] = 130
    change, margin = OPERATIONS[name]
    whole = change(image, 3.0)
    for top, left in ((0, 0), (30, 45), (60, 80)):  # a corner, the inside, the other corner
        bottom, right = top + 30, left + 30
        if margin is None:
            cut = change(image[top:bottom, left:right], 3.0)
            assert not np.array_equal(cut, whole[top:bottom, left:right])
            continue
        y, x = max(top - margin, 0), max(left - margin, 0)
        part = change(np.ascontiguousarray(image[y : bottom + margin, x : right + margin]), 3.0)
        part = part[top - y : top - y + 30, left - x : left - x + 30]
        np.testing.assert_array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        (1.0, "simple_classification_policy"),
        (0.2, "simple_classification_policy_magnitude_scale_0.2"),
    ],
)
def test_levels_equal_deeplab2(scale: float, name: str) -> None:
    ours = [[list(operation) for operation in sub] for sub in ColorPolicy(scale).sub_policies]
    assert ours == POLICIES[name]


def test_operations_fire_with_their_probabilities() -> None:
    policy = ColorPolicy(0.2)
    rng = np.random.default_rng(0)
    draws = 4000
    margins = Counter(policy(rng).margin for _ in range(draws))
    # By hand: a whole image is asked for by Contrast 0.2, Equalize 0.6 and 0.2 of a fifth each;
    # a margin of one by Sharpness, if no Equalize fires with it.
    assert margins[None] / draws == pytest.approx((0.2 + 0.6 + 0.2) / 5, abs=0.025)
    assert margins[1] / draws == pytest.approx((0.4 + 0.2 + 0.2 * 0.8) / 5, abs=0.025)
    assert set(margins) == {None, 0, 1}


def test_draws_follow_from_the_generator() -> None:
    policy = ColorPolicy(1.0)
    results = [policy(np.random.default_rng([0, n])).change(IMAGE) for n in range(40)]
    again = [policy(np.random.default_rng([0, n])).change(IMAGE) for n in range(40)]
    for one, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({result.tobytes() for result in results}) > 5


def test_own_policy_and_unknown_names() -> None:
    negative = ColorPolicy(1.0, [[["Invert", 1.0, 0]]])(np.random.default_rng(0))
    np.testing.assert_array_equal(negative.change(IMAGE), 255 - IMAGE)
    with pytest.raises(UserError, match="sub_policies names the operation 'Blur'; use one of Auto"):
        ColorPolicy(1.0, [[["Blur", 1.0, 0]]])


def test_policy_travels_to_worker_processes() -> None:
    copy = pickle.loads(pickle.dumps(ColorPolicy(0.2)))
    assert copy.sub_policies == ColorPolicy(0.2).sub_policies
    assert len(copy.sub_policies) == len(SIMPLE_CLASSIFICATION_POLICY)
