"""The 133 classes of COCO panoptic: 80 things, 53 stuff.

Source: `panoptic_coco_categories.json` of cocodataset/panopticapi. Class ids are the 1-based
positions in that list, 0 is void, as the published deeplab2 checkpoints have it.
"""

from pathlib import Path

from axialseg.panoptic.categories import contiguous_categories, read_class_table

COCO = contiguous_categories(read_class_table(Path(__file__).with_suffix(".csv")))
