from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from axialseg.formats.id_png import ids_from_rgb
from axialseg.inference.segmentation import Segmentation
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

ROAD, CAR, VOID = 0, 13, CITYSCAPES.ignore_class
BASE = 65536


@pytest.fixture
def found() -> Segmentation:
    """Road below, two cars above, void elsewhere; 6 x 10 pixels."""
    panoptic = np.full((6, 10), VOID * BASE, np.int32)
    panoptic[4:] = ROAD * BASE
    panoptic[1:3, 1:4] = CAR * BASE + 1
    panoptic[0:4, 6:8] = CAR * BASE + 2
    image = np.full((6, 10, 3), 90, np.uint8)
    return Segmentation(image, panoptic, np.array([0.9, 0.4, 0.75]), CITYSCAPES, "a/b.png")


def test_segments(found: Segmentation) -> None:
    told = [(s.name, s.score, s.area, s.box, s.category.is_thing) for s in found.segments]
    assert told == [
        ("road", 0.9, 20, (0, 4, 10, 2), False),
        ("car", 0.4, 6, (1, 1, 3, 2), True),
        ("car", 0.75, 8, (6, 0, 2, 4), True),
    ]
    for segment in found.segments:
        assert segment.mask().sum() == segment.area
    assert found.segments[1].mask()[1:3, 1:4].all()
    assert repr(found) == "<Segmentation 10x6: road 0.90, car 0.40, car 0.75>"


def test_coco(found: Segmentation) -> None:
    coco = found.to_coco()
    ids = ids_from_rgb(found.id_picture())
    assert [row["name"] for row in coco["segments_info"]] == ["road", "car", "car"]
    for row, segment in zip(coco["segments_info"], found.segments, strict=True):
        assert np.array_equal(ids == row["id"], segment.mask())
        assert (row["bbox"], row["area"]) == (list(segment.box), segment.area)
        assert (row["score"], row["iscrowd"]) == (segment.score, 0)
        assert row["category_id"] == segment.category.official_id
    assert (ids == 0).sum() == 60 - 34
    assert [row["name"] for row in coco["categories"]] == ["road", "car"]


@pytest.mark.parametrize(
    ("things", "min_score", "areas"),
    [(True, 0.0, [6, 8]), (False, 0.5, [20, 8]), (True, 0.75, [8]), (False, 0.95, [])],
)
def test_fewer_segments(
    things: bool, min_score: float, areas: list[int], found: Segmentation
) -> None:
    fewer = found.only(things, min_score)
    assert [segment.area for segment in fewer.segments] == areas
    assert (fewer.panoptic == VOID * BASE).sum() == 60 - sum(areas)
    assert len(found.segments) == 3
    kept = [segment for segment in found.segments if segment.area in areas]
    for before, after in zip(kept, fewer.segments, strict=True):
        assert np.array_equal(before.mask(), after.mask())
        assert (before.score, before.box) == (after.score, after.box)


def test_picture(found: Segmentation) -> None:
    assert found.plot().size == (640, 384)
    with Image.open(BytesIO(found._repr_png_())) as shown:
        assert shown.size == (640, 384)
    nothing = found.only(min_score=1.0)
    assert nothing.plot().size == (640, 384)
    assert nothing.to_coco() == {"segments_info": [], "categories": []}
