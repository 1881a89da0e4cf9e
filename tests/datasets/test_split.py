"""One data set as two."""

from pathlib import Path

import pytest
from coco_tree import write_tree

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.inspection.inspector import Inspectable
from axialseg.datasets.sample import LabelledDataset
from axialseg.datasets.split import split
from axialseg.errors import UserError


@pytest.fixture
def whole(tmp_path: Path) -> CocoPanoptic:
    write_tree(tmp_path, ("train",))
    annotations = "annotations/panoptic_train2017"
    return CocoPanoptic(tmp_path, "train2017", f"{annotations}.json", annotations)


def test_parts_share_no_image_and_follow_the_seed(whole: CocoPanoptic) -> None:
    training, validation = split(whole, 0.4, seed=3)
    assert (len(training), len(validation)) == (3, 2)
    ids = [part.read(n).image_id for part in (training, validation) for n in range(len(part))]
    assert sorted(ids) == list(range(5))
    again = split(whole, 0.4, seed=3)
    assert [part.indices for part in again] == [training.indices, validation.indices]
    others = {tuple(split(whole, 0.4, seed)[1].indices) for seed in range(8)}
    assert len(others) > 1
    assert training.categories == whole.categories
    for part in (training, validation):
        assert isinstance(part, Inspectable)
        assert isinstance(part, LabelledDataset)
        assert part.class_presence().shape == (len(part), 5)


def test_small_sets_keep_one_image_on_each_side(whole: CocoPanoptic) -> None:
    assert [len(part) for part in split(whole, 0.01, 0)] == [4, 1]
    assert [len(part) for part in split(whole, 0.99, 0)] == [1, 4]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 10])
def test_what_is_no_share_is_refused(whole: CocoPanoptic, share: float) -> None:
    with pytest.raises(UserError, match="is not a share of the images"):
        split(whole, share, 0)
