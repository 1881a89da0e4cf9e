"""The 19 scored classes of Cityscapes: 8 things, 11 stuff.

Source: `helpers/labels.py` of mcordts/cityscapesScripts. Class ids are its train ids, void is 255;
official ids are the label ids that its files and its server use.
"""

from pathlib import Path

from axialseg.panoptic.categories import Categories, Category, read_class_table

CITYSCAPES = Categories(
    tuple(
        Category(train_id, name, is_thing, official_id, color)
        for train_id, (official_id, name, is_thing, color) in enumerate(
            read_class_table(Path(__file__).with_suffix(".csv"))
        )
    ),
    ignore_class=255,
)
