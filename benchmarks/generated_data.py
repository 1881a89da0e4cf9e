"""Data sets in the official layouts, as large on disk and as rich in segments as the real ones.

Images are noise at many scales with some grain, so that JPEG and PNG files come out as long as
photographs (COCO about 160 kB, Cityscapes about 2.3 MB); segments are cells with ragged borders and
blobs over them.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from axialseg.formats.coco_panoptic import official_categories, segments_info
from axialseg.formats.id_png import rgb_from_ids
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import PanopticSegments


def photograph(height: int, width: int, grain: float, rng: Generator) -> NDArray[np.uint8]:
    """Noise at eight scales, uint8 ``[height, width, 3]``."""
    image = np.full((height, width, 3), 120, np.float32)
    for octave in range(1, 9):
        cells = 2**octave
        size = max(height * cells // width, 2) + 1, cells + 1, 3
        layer = rng.standard_normal(size, np.float32) * 110 / octave**1.6
        image += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.standard_normal(image.shape, np.float32) * grain
    return image.clip(0, 255).astype(np.uint8)


def scene(height: int, width: int, stuff: int, things: int, rng: Generator) -> NDArray[np.int32]:
    """Void 0, stuff 1..stuff in ragged cells, things stuff + 1.. in blobs, int32 ``[H, W]``."""
    scale = max(height, width) / 640
    bend = [_smooth_noise(height, width, 24, rng) * 25 * scale for _ in range(2)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y + bend[0], x + bend[1]
    nearest = np.full((height, width), np.inf, np.float32)
    id_map = np.zeros((height, width), np.int32)
    for number in range(1, stuff + 1):
        center = rng.uniform(0, height), rng.uniform(0, width)
        distance = 4 * (y - center[0]) ** 2 + (x - center[1]) ** 2
        closer = distance < nearest
        id_map[closer], nearest[closer] = number, distance[closer]
    id_map[_smooth_noise(height, width, 12, rng) > 1.6] = 0
    for number in range(stuff + 1, stuff + things + 1):
        radius = 640 * scale * np.exp(rng.uniform(np.log(0.01), np.log(0.16)))
        center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
        shape = (y - center_y) ** 2 / rng.uniform(0.5, 3) + (x - center_x) ** 2
        id_map[shape < radius**2] = number
    return id_map


def _smooth_noise(height: int, width: int, cells: int, rng: Generator) -> NDArray[np.float32]:
    noise = rng.standard_normal((max(cells * height // width, 2), cells), np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def write_coco(root: Path, images: int, split: str = "train2017") -> None:
    """JPEG images of 640 x 480, PNGs and the JSON file of one split of COCO."""
    (root / split).mkdir(parents=True)
    (root / "annotations" / f"panoptic_{split}").mkdir(parents=True)
    listed, annotations = [], []
    for number in range(1, images + 1):
        rng = np.random.default_rng(number)
        name = f"{number:012d}"
        picture = photograph(480, 640, 12, rng)
        Image.fromarray(picture).save(root / split / f"{name}.jpg", quality=94)
        stuff, things = int(rng.integers(2, 7)), int(rng.integers(1, 16))
        id_map = scene(480, 640, stuff, things, rng)
        present = np.unique(id_map)[1:]
        numbers = np.zeros(stuff + things + 1, np.int32)
        numbers[present] = np.arange(1, len(present) + 1)
        classes = np.where(
            present <= stuff,
            rng.choice(COCO.stuff_ids, len(present)),
            rng.choice(COCO.thing_ids, len(present)),
        )
        is_crowd = (present > stuff) & (rng.random(len(present)) < 0.02)
        segments = PanopticSegments(numbers[id_map], classes.astype(np.int64), is_crowd)
        ids = rng.choice(256**3 - 1, len(present), replace=False) + 1
        colors = rgb_from_ids(np.array([0, *ids]))
        png = root / "annotations" / f"panoptic_{split}" / f"{name}.png"
        Image.fromarray(colors[segments.id_map]).save(png)
        listed.append({"id": number, "file_name": f"{name}.jpg", "height": 480, "width": 640})
        rows = segments_info(segments, ids.tolist(), COCO)
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": rows})
    content = {
        "images": listed,
        "annotations": annotations,
        "categories": official_categories(COCO),
    }
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))


def write_cityscapes(root: Path, images: int, split: str = "train") -> None:
    """PNG images of 2048 x 1024 and instance ids of one split of Cityscapes, in one city."""
    folders = [root / name / split / "aachen" for name in ("leftImg8bit", "gtFine")]
    for folder in folders:
        folder.mkdir(parents=True)
    things = [c.official_id for c in CITYSCAPES.classes if c.is_thing]
    stuff = [c.official_id for c in CITYSCAPES.classes if not c.is_thing]
    for number in range(images):
        rng = np.random.default_rng(number)
        name = f"aachen_{number:06d}_000019"
        picture = photograph(1024, 2048, 1, rng)
        Image.fromarray(picture).save(folders[0] / f"{name}_leftImg8bit.png")
        count = int(rng.integers(10, 60))
        id_map = scene(1024, 2048, len(stuff), count, rng)
        instances = [1000 * int(rng.choice(things)) + n for n in range(count)]
        ids = np.array([0, *stuff, *instances], np.uint16)[id_map]
        Image.fromarray(ids).save(folders[1] / f"{name}_gtFine_instanceIds.png")
