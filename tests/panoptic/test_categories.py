from axialseg.panoptic.categories import contiguous_categories


def test_numbers_follow_the_official_ids() -> None:
    categories = contiguous_categories(
        [
            (70, "wall", False, (1, 2, 3)),
            (2, "cat", True, (4, 5, 6)),
            (9, "dog", True, (7, 8, 9)),
        ]
    )
    assert [row.name for row in categories.classes] == ["cat", "dog", "wall"]
    assert categories.class_ids == (1, 2, 3)
    assert categories.ignore_class == 0
    assert len(categories) == 3
    assert categories.semantic_channels == 4
    assert categories.thing_ids == (1, 2)
    assert categories.stuff_ids == (3,)
    assert categories.by_official_id[70].class_id == 3
    assert categories.by_class_id[2].official_id == 9
    assert categories.is_thing_table.tolist() == [False, True, True, False]
