"""From counts of images to the scores of a data set."""

import numpy as np
import pytest
from scoring_cases import SMALL

from axialseg.evaluation.image_score import ImageScore, score_runs
from axialseg.evaluation.summary import summarize
from axialseg.panoptic.panoptic_map import PanopticSegments


def cat(position: int, image_id: int, is_found: bool) -> ImageScore:
    """An image with a cat in its left half, and one predicted there or beside it."""
    left = np.repeat([[1, 1, 0, 0]], 4, 0).astype(np.int32)
    target, prediction = (
        PanopticSegments(id_map, np.array([1]), np.zeros(1, bool))
        for id_map in (left, left if is_found else left[:, ::-1])
    )
    image = score_runs(position, "", prediction.to_runs(), target.to_runs(), SMALL)
    return image._replace(scores=np.array([0.5]), image_id=image_id)


@pytest.mark.parametrize(("first", "ap"), [(True, 51 / 101), (False, 51 / 101 / 2)])
def test_equal_scores_count_in_the_order_of_image_ids_as_pycocotools_has_it(
    first: bool, ap: float
) -> None:
    images = [cat(0, 1 if first else 30, True), cat(1, 2, False)]
    precision = summarize(images, SMALL).precision
    assert precision is not None
    assert precision.ap == pytest.approx(ap, abs=1e-12)
