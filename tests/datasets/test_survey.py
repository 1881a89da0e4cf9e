"""What a look at the images finds, and the weights that follow."""

from pathlib import Path

import numpy as np
import pytest
from coco_tree import write_tree

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.survey import balanced_weights, survey


def test_survey_counts_what_is_there(tmp_path: Path) -> None:
    write_tree(tmp_path, ("train",))
    annotations = "annotations/panoptic_train2017"
    found = survey(CocoPanoptic(tmp_path, "train2017", f"{annotations}.json", annotations))
    assert found.images == 5
    assert found.size == (24, 40)
    assert found.decoded_bytes == 24 * 40 * 7
    assert found.most_things == 2
    # Cats are crowds, which no loss learns from; a dog has 42 pixels, the other 120.
    dogs, road = 42 + 120, 12 * 40 - 8 * 10
    sky = 24 * 40 - 3 - dogs - road - 32
    assert found.class_share == pytest.approx(np.array([0, dogs, sky, road]) / (dogs + sky + road))
    assert found.void_share == pytest.approx((3 + 32) / 960)
    assert found.small_thing == pytest.approx(42 / 960)
    assert found.small_stuff == pytest.approx(min(sky, road) / 960)


def test_balanced_weights_leave_the_mean_over_pixels_at_one() -> None:
    share = np.array([0.6, 0.3, 0.09, 0.01, 0.0])
    weights = np.array(balanced_weights(share))
    assert (weights * share).sum() == pytest.approx(1, abs=1e-3)
    assert weights[1] / weights[0] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert (np.diff(weights[:4]) > 0).all()
    assert weights[4] / weights[0] <= 16.01  # a class that was not seen counts no more than rare
    assert balanced_weights(np.zeros(3)) == [1.0] * 3
