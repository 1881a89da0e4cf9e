"""The 19 scored classes of Cityscapes: 8 things, 11 stuff.

Source: `helpers/labels.py` of mcordts/cityscapesScripts. Class ids are its train ids, void is 255;
official ids are the label ids that its files and its server use.
"""

from axialseg.panoptic.categories import Categories, Category

# (official id, name, RGB colour), in the order of the train ids: first the stuff, then the things.
_STUFF: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
)
_THINGS: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)

CITYSCAPES = Categories(
    tuple(
        Category(train_id, name, train_id >= len(_STUFF), official_id, color)
        for train_id, (official_id, name, color) in enumerate(_STUFF + _THINGS)
    ),
    ignore_class=255,
)
