"""Dropped, merged and renamed classes: numbers, segments, and every refusal."""

import re

import numpy as np
import pytest

from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories, contiguous_categories, difference
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.class_changes import ClassChanges
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import PanopticSegments

OWN = contiguous_categories(
    [
        (3, "car", True, (1, 1, 1)),
        (5, "truck", True, (2, 2, 2)),
        (7, "road", False, (3, 3, 3)),
        (8, "pavement", False, (4, 4, 4)),
        (9, "sky", False, (5, 5, 5)),
    ]
)
# car, truck, car crowd, road, pavement, sky, road again
SEGMENTS = PanopticSegments(
    np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.int32),
    np.array([1, 2, 1, 3, 4, 5, 3]),
    np.array([False, False, True, False, False, False, False]),
)


def rows(categories: Categories) -> list[tuple[int, str, bool, int]]:
    return [(c.class_id, c.name, c.is_thing, c.official_id) for c in categories.classes]


def test_no_change_is_no_change() -> None:
    assert not ClassChanges()
    assert ClassChanges(things=[])
    changed = ClassChanges().of(OWN)
    assert changed.categories == OWN
    for one, other in zip(changed.segments(SEGMENTS), SEGMENTS, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropped_classes_are_void() -> None:
    changed = ClassChanges(drop=["truck", "sky"]).of(OWN)
    assert rows(changed.categories) == [
        (1, "car", True, 3),
        (2, "road", False, 7),
        (3, "pavement", False, 8),
    ]
    segments = changed.segments(SEGMENTS)
    assert segments.id_map.tolist() == [[0, 1, 0, 2], [3, 4, 0, 5]]
    assert segments.id_map.dtype == np.int32
    assert segments.class_ids.tolist() == [1, 1, 2, 3, 2]
    assert segments.is_crowd.tolist() == [False, True, False, False, False]


def test_merged_things_stay_apart_and_merged_stuff_is_one() -> None:
    merge = {"vehicle": ["car", "truck"], "ground": ["road", "pavement"]}
    changed = ClassChanges(merge=merge).of(OWN)
    assert rows(changed.categories) == [
        (1, "vehicle", True, 3),
        (2, "ground", False, 7),
        (3, "sky", False, 9),
    ]
    assert changed.categories.classes[0].color == (1, 1, 1)
    segments = changed.segments(SEGMENTS)
    assert segments.id_map.tolist() == [[0, 1, 2, 3], [4, 4, 5, 4]]
    assert segments.class_ids.tolist() == [1, 1, 1, 2, 3]
    assert segments.is_crowd.tolist() == [False, False, True, False, False]


def test_things_that_become_stuff_are_one_segment_and_no_crowd() -> None:
    changed = ClassChanges(things=[]).of(OWN)
    assert changed.categories.thing_ids == ()
    segments = changed.segments(SEGMENTS)
    assert segments.id_map.tolist() == [[0, 1, 2, 1], [3, 4, 5, 6]]
    assert segments.class_ids.tolist() == [1, 2, 3, 4, 5, 3]
    assert not segments.is_crowd.any()


def test_stuff_that_becomes_things_keeps_its_segments() -> None:
    changed = ClassChanges(things=["road", "car", "truck"]).of(OWN)
    assert changed.categories.thing_ids == (1, 2, 3)
    np.testing.assert_array_equal(changed.segments(SEGMENTS).id_map, SEGMENTS.id_map)


def test_a_class_may_be_merged_into_one_of_its_members() -> None:
    merge = {"car": ["car", "truck"]}
    assert [c.name for c in ClassChanges(merge=merge).of(OWN).categories.classes] == [
        *("car", "road", "pavement", "sky")
    ]


def test_merged_things_and_stuff_need_to_be_told() -> None:
    merge = {"all": ["car", "road"]}
    with pytest.raises(UserError, match=r"merge\.all has things and stuff; say what it is by"):
        ClassChanges(merge=merge).of(OWN)
    changed = ClassChanges(merge=merge, things=["truck"]).of(OWN)
    assert changed.segments(SEGMENTS).id_map.tolist() == [[0, 1, 2, 1], [1, 3, 4, 1]]
    assert not changed.segments(SEGMENTS).is_crowd.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ["cra"]}, "data.classes.drop names cra, which is not a class; did you mean car?"),
        (
            {"drop": ["zzz"]},
            "drop names zzz, which is not a class; there are car, truck, road, pavement, sky",
        ),
        (
            {"merge": {"a": ["trcuk"]}},
            "merge.a names trcuk, which is not a class; did you mean truck",
        ),
        ({"things": ["lorry"]}, "data.classes.things names lorry, which is not a class"),
        (
            {"drop": ["car"], "things": ["car"]},
            "data.classes.things names car, which is not a class",
        ),
        ({"drop": ["car"], "merge": {"a": ["car"]}}, "names car, which is dropped or merged alr"),
        ({"merge": {"a": ["car"], "b": ["car"]}}, "names car, which is dropped or merged already"),
        ({"merge": {"sky": ["car", "truck"]}}, "merge.sky has the name of another class"),
        ({"drop": [c.name for c in OWN.classes]}, "names all classes; leave one"),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ClassChanges(**changes).of(OWN)


def test_numbering_follows_the_data_set() -> None:
    changed = ClassChanges(drop=["road"], merge={"rider": ["person", "rider"]}).of(CITYSCAPES)
    categories = changed.categories
    assert categories.class_ids == tuple(range(17))
    assert categories.ignore_class == 255
    assert categories.classes[0].name == "sidewalk"
    assert categories.by_class_id[10].name == "rider"
    changed = ClassChanges(drop=["person"]).of(COCO)
    assert changed.categories.class_ids == tuple(range(1, 133))
    assert changed.categories.ignore_class == 0


def test_presence_follows() -> None:
    changes = ClassChanges(drop=["sky"], merge={"ground": ["road", "pavement"]})
    presence = np.array([[0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]], bool)
    changed = changes.of(OWN).presence(presence)
    assert changed.tolist() == [[False, True, False, True], [False] * 4]


def test_lists_in_another_order_or_colour_do_not_differ() -> None:
    official = [(c.official_id, c.name, c.is_thing, (9, 9, 9)) for c in OWN.classes]
    assert difference(OWN, contiguous_categories(reversed(official))) is None
    official[1] = (5, "lorry", True, (9, 9, 9))
    official[2] = (7, "road", True, (9, 9, 9))
    assert difference(OWN, contiguous_categories(official)) == (
        "only the training file has 5 truck (thing), 7 road (stuff); only the validation file has "
        "5 lorry (thing), 7 road (thing)"
    )
