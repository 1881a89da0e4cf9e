from axialseg.panoptic.coco_classes import COCO


def test_counts_ids_and_order() -> None:
    assert len(COCO) == 133
    assert COCO.semantic_channels == 134
    assert COCO.ignore_class == 0
    assert COCO.class_ids == tuple(range(1, 134))
    assert COCO.thing_ids == tuple(range(1, 81))
    assert COCO.stuff_ids == tuple(range(81, 134))


def test_official_ids_ascend_and_lie_in_the_official_range() -> None:
    official = [category.official_id for category in COCO.classes]
    assert official == sorted(set(official))
    assert (official[0], official[79], official[80], official[-1]) == (1, 90, 92, 200)
    # Numbers that the official list leaves out.
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & set(official)


def test_spot_checks_against_the_official_list() -> None:
    rows = {row.official_id: (row.class_id, row.name, row.color) for row in COCO.classes}
    assert rows[1] == (1, "person", (220, 20, 60))
    assert rows[13] == (12, "stop sign", (220, 220, 0))
    assert rows[90] == (80, "toothbrush", (191, 162, 208))
    assert rows[92] == (81, "banner", (255, 255, 128))
    assert rows[184] == (117, "tree-merged", (107, 142, 35))
    assert rows[200] == (133, "rug-merged", (250, 141, 255))


def test_names_and_colours_are_distinct() -> None:
    assert len({category.name for category in COCO.classes}) == 133
    assert len({category.color for category in COCO.classes}) == 133
