"""Ids of segments."""

import numpy as np

from axialseg.formats.coco_panoptic import color_like_ids
from axialseg.formats.id_png import rgb_from_ids
from axialseg.panoptic.categories import contiguous_categories

# Official ids out of the order of the class ids' names, with gaps.
CATEGORIES = contiguous_categories(
    [
        (3, "cat", True, (200, 10, 10)),
        (8, "dog", True, (10, 200, 10)),
        (92, "grass", False, (10, 10, 10)),
    ]
)


def test_ids_look_like_the_class_and_never_repeat() -> None:
    class_ids = np.array([1] * 300 + [2, 3], np.int64)
    ids = color_like_ids(class_ids, CATEGORIES)
    assert len(set(ids)) == 302
    assert 0 not in ids
    assert rgb_from_ids(np.array(ids))[[0, 300]].tolist() == [[200, 10, 10], [10, 200, 10]]
    black = contiguous_categories([(1, "night", False, (0, 0, 0))])
    assert 0 not in color_like_ids(np.array([1, 1]), black)
