from axialseg.panoptic.cityscapes_classes import CITYSCAPES


def test_train_ids_void_and_things() -> None:
    assert CITYSCAPES.class_ids == tuple(range(19))
    assert CITYSCAPES.semantic_channels == 19
    assert CITYSCAPES.ignore_class == 255
    assert CITYSCAPES.thing_ids == tuple(range(11, 19))
    assert CITYSCAPES.is_thing_table.shape == (256,)
    assert not CITYSCAPES.is_thing_table[255]


def test_official_label_ids() -> None:
    official = [category.official_id for category in CITYSCAPES.classes]
    assert official == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_names_and_colours() -> None:
    assert CITYSCAPES.by_official_id[26].name == "car"
    assert CITYSCAPES.by_class_id[0].color == (128, 64, 128)
    assert CITYSCAPES.by_class_id[18].name == "bicycle"
    assert len({category.color for category in CITYSCAPES.classes}) == 19
