"""Cityscapes' instance id PNGs: 16-bit grey, one number for class and instance of a pixel.

Source: `helpers/labels.py`, `preparation/json2instanceImg.py` and `createPanopticImgs.py` of
mcordts/cityscapesScripts. A value from 1000 on is ``label id * 1000 + instance``. A smaller one is
a label id alone: stuff, or of a thing class a group (`cargroup`, `persongroup`, ...) whose members
were not told apart; such a group is a crowd. Labels that are not scored are void. License plates
(label -1) are not drawn at all: there the PNGs show the vehicle.
"""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialseg.errors import UserError
from axialseg.formats.damaged_image import image_reading
from axialseg.formats.whole_file import read_file
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.panoptic_map import SegmentRuns, run_starts

INSTANCE_DIVISOR = 1000
# The label ids that PNGs may show, scored or not: unlabeled, ego vehicle, ..., bicycle.
LABEL_IDS = range(34)


def read_instance_ids(path: Path) -> NDArray[np.int32]:
    """Reads a `*_instanceIds.png`, int32 ``[H, W]``.

    Raises:
        UserError: the file is missing, damaged or not of 16-bit grey.
    """
    with (
        image_reading(path, "the annotations of that city"),
        Image.open(BytesIO(read_file(path))) as image,
    ):
        if image.mode not in ("I;16", "I;16B", "I"):
            raise UserError(
                f"{path} is not an instance id PNG (its pixels are {image.mode}, not 16-bit grey); "
                "unpack the *_instanceIds.png files as they are published."
            )
        return np.asarray(image).astype(np.int32)


class InstanceIdClasses(NamedTuple):
    """What instance ids stand for; K of them.

    Attributes:
        class_ids: int64 ``[K]``; the ignore class of labels that are not scored, -1 of no label.
        is_crowd: bool ``[K]``, groups of things.
    """

    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]


def classes_of_instance_ids(values: NDArray[np.integer]) -> InstanceIdClasses:
    """Looks up ids ``[K]``."""
    is_alone = values < INSTANCE_DIVISOR
    label_ids = np.where(is_alone, values, values // INSTANCE_DIVISOR)
    is_label = np.isin(label_ids, LABEL_IDS)
    class_ids = np.where(is_label, _CLASS_OF_LABEL[np.where(is_label, label_ids, 0)], -1)
    return InstanceIdClasses(class_ids, is_alone & CITYSCAPES.is_thing_table[class_ids])


def runs_from_instance_ids(ids: NDArray[np.int32], path: Path) -> SegmentRuns:
    """The segments of an image, in ascending order of their ids, as the official script has them.

    Args:
        ids: instance ids ``[H, W]``.
        path: where they are from, for messages.

    Raises:
        UserError: an id is of no Cityscapes label.
    """
    starts = run_starts(ids)
    values, first, value_of_run = np.unique(
        ids.ravel()[starts], return_index=True, return_inverse=True
    )
    class_ids, is_crowd = classes_of_instance_ids(values)
    unknown = np.flatnonzero(class_ids < 0)
    if unknown.size:
        y, x = divmod(int(starts[first[unknown[0]]]), ids.shape[1])
        raise UserError(
            f"{path} has the id {values[unknown[0]]} at row {y}, column {x}, which is not a label "
            "of Cityscapes; unpack the *_instanceIds.png files as they are published."
        )
    is_scored = class_ids != CITYSCAPES.ignore_class
    numbers = np.where(is_scored, np.cumsum(is_scored), 0).astype(np.int32)
    height, width = ids.shape
    class_ids, is_crowd = class_ids[is_scored], is_crowd[is_scored]
    return SegmentRuns((height, width), starts, numbers[value_of_run], class_ids, is_crowd)


_CLASS_OF_LABEL = np.full(len(LABEL_IDS), CITYSCAPES.ignore_class, np.int64)
_CLASS_OF_LABEL[list(CITYSCAPES.by_official_id)] = [
    category.class_id for category in CITYSCAPES.by_official_id.values()
]
