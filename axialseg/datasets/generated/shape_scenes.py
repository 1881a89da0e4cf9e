"""Paints one scene of the generated `shapes` data: things that differ in form, on textured stuff.

Five things (disk, square, triangle, star, ring) lie on two or three of four kinds of stuff (sky,
grass, brick, water). As with real classes, colour and texture tell something and never enough:
each class has a broad preference of hue and of fill, and often ignores it. The best possible guess
names 54 % of the things from the hue alone and 60 % from hue and fill, 56 % of the stuff from the
hue; guessing blindly names 20 % and 25 %. Only form (for stuff: pattern) decides. Scenes have
occlusion, shading, uneven light, blur, noise, objects of unknown kind and unlabelled seams (void),
and now and then a crowd of many small things of one class.

All coordinates are pixels; colours are RGB 0..1, float32 ``[H, W, 3]``.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.generated.shape_painting import (
    FILLS,
    STUFF_PALETTE,
    TEXTURES,
    THING_PALETTE,
    Cutout,
    Image,
    Outline,
    blob,
    cut_out,
    distort,
    lay,
    photograph,
    polygon,
    shading,
    smooth_noise,
    tint,
)
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments

# Raise it with every change that alters a scene: data on disk of another version is made anew.
GENERATOR_VERSION = 2

SIZES = ((128, 128), (96, 128), (128, 96), (112, 128), (128, 112))  # (height, width)
OBJECTS = (3, 7)  # objects in a scene, ends included
# (share, smallest, largest) diameter of the objects, log-uniform within
DIAMETERS = ((0.08, 6.0, 14.0), (0.82, 15.0, 52.0), (0.10, 48.0, 66.0))
MIN_VISIBLE = 0.4  # share of an object that later ones leave uncovered
VOID_OBJECT_RATE, SEAM_RATE, CROWD_RATE = 0.3, 0.3, 0.15
HUE_PREFERENCE, HUE_SPREAD = 0.7, 0.1  # rate, and standard deviation in turns
FILL_PREFERENCE = 0.4

CATEGORIES: Categories = contiguous_categories(
    [
        (1, "disk", True, (220, 60, 60)),
        (2, "square", True, (230, 190, 50)),
        (3, "triangle", True, (70, 190, 80)),
        (4, "star", True, (60, 120, 230)),
        (5, "ring", True, (190, 80, 210)),
        (101, "sky", False, (150, 200, 240)),
        (102, "grass", False, (120, 150, 60)),
        (103, "brick", False, (160, 100, 80)),
        (104, "water", False, (50, 110, 140)),
    ]
)
THINGS, STUFF = CATEGORIES.thing_ids, CATEGORIES.stuff_ids
PREFERRED_HUE = {1: 0.0, 2: 0.2, 3: 0.4, 4: 0.6, 5: 0.8, 6: 0.58, 7: 0.28, 8: 0.05, 9: 0.48}


class Scene(NamedTuple):
    """Image uint8 ``[H, W, 3]`` RGB and its segments (no empty ones)."""

    image: NDArray[np.uint8]
    segments: PanopticSegments


def paint_scene(rng: Generator) -> Scene:
    """Draws one scene; everything in it follows from `rng`."""
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = np.zeros((height, width, 3), np.float32)
    id_map = np.zeros((height, width), np.int32)
    class_ids = _paint_stuff(canvas, id_map, rng)
    is_crowd = [False] * len(class_ids)

    if rng.random() < CROWD_RATE:
        class_ids.append(_paint_crowd(canvas, id_map, len(class_ids) + 1, rng))
        is_crowd.append(True)
    if rng.random() < VOID_OBJECT_RATE:
        outline = [blob(rng) * rng.uniform(10, 30) + _place(height, width, rng)]
        _paint(canvas, id_map, 0, cut_out(outline, height, width), None, rng)
    visible: dict[int, int] = {}  # number of an object -> pixels it had before others hid it
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        class_id = int(rng.choice(THINGS))
        placed = _find_place(class_id, id_map, visible, rng)
        if placed is None:
            continue
        class_ids.append(class_id)
        is_crowd.append(False)
        visible[len(class_ids)] = int(placed.mask().sum())
        _paint(canvas, id_map, len(class_ids), placed, class_id, rng)

    segments = PanopticSegments(id_map, np.array(class_ids, np.int64), np.array(is_crowd, bool))
    return Scene(photograph(canvas, rng), _without_empty(segments))


def _without_empty(segments: PanopticSegments) -> PanopticSegments:
    """Drops segments without pixels and renumbers the rest."""
    present = segments.areas() > 0
    numbers = np.concatenate(([0], np.cumsum(present) * present)).astype(np.int32)
    return PanopticSegments(
        numbers[segments.id_map], segments.class_ids[present], segments.is_crowd[present]
    )


# Forms: closed outlines, float64 [points, 2] as (x, y), of about unit diameter around the origin.


def _outlines(class_id: int, rng: Generator) -> list[Outline]:
    """Outlines of one thing; a second one is a hole."""
    if class_id == 1:
        forms = [polygon(48)]
    elif class_id == 2:
        forms = [polygon(4) * 1.15]
    elif class_id == 3:
        forms = [polygon(3) * 1.25]
    elif class_id == 4:
        star = polygon(10) * 1.25
        star[1::2] *= rng.uniform(0.38, 0.5)
        forms = [star]
    else:
        forms = [polygon(48) * 1.05, polygon(48) * rng.uniform(0.45, 0.62)]
    return distort(forms, rng)


def _place(height: int, width: int, rng: Generator) -> Outline:
    """A centre (x, y); objects near it may be cut by the border."""
    return np.array([rng.uniform(0.08, 0.92) * width, rng.uniform(0.08, 0.92) * height])


def _find_place(
    class_id: int, id_map: NDArray[np.int32], visible: dict[int, int], rng: Generator
) -> Cutout | None:
    """A new thing that leaves enough of the earlier ones in sight; None if it finds no place."""
    height, width = id_map.shape
    kind = DIAMETERS[rng.choice(len(DIAMETERS), p=[share for share, _, _ in DIAMETERS])]
    diameter = np.exp(rng.uniform(np.log(kind[1]), np.log(kind[2])))
    outlines = [outline * diameter for outline in _outlines(class_id, rng)]
    length = max(visible, default=0) + 1
    before = np.bincount(id_map.ravel(), minlength=length)
    for _ in range(8):
        place = _place(height, width, rng)
        thing = cut_out([outline + place for outline in outlines], height, width)
        mask = thing.mask()
        left = before - np.bincount(id_map[thing.window][mask], minlength=len(before))
        seen = all(left[number] >= MIN_VISIBLE * area for number, area in visible.items())
        if seen and mask.sum() >= 12:
            return thing
    return None


# Painting.


def _paint(
    canvas: Image,
    id_map: NDArray[np.int32],
    number: int,
    thing: Cutout,
    class_id: int | None,
    rng: Generator,
) -> None:
    """Lays a filled and shaded object over canvas and ids (`number`)."""
    height, width = thing.coverage.shape
    shade = shading(thing, rng)
    lay(canvas, thing, _fill(class_id, height, width, rng) * shade)
    id_map[thing.window][thing.mask()] = number


def _paint_stuff(canvas: Image, id_map: NDArray[np.int32], rng: Generator) -> list[int]:
    """Fills the scene with two or three regions with wavy borders; returns their classes."""
    height, width = id_map.shape
    count = int(rng.integers(2, 4))
    class_ids = [int(c) for c in rng.choice(STUFF, count, replace=False)]
    # Sky tends to be above, as elsewhere.
    seeds = rng.uniform(0, 1, (count, 2)) * (height, width)
    for seed, class_id in zip(seeds, class_ids, strict=True):
        if class_id == 6 and rng.random() < 0.7:
            seed[0] *= 0.4
    grid = np.mgrid[:height, :width].astype(np.float32)
    grid += np.stack([smooth_noise(height, width, 10.0, rng) for _ in range(2)]) * 7
    squared = [((grid - seed[:, None, None]) ** 2).sum(0) for seed in seeds]
    region = np.argmin(squared, axis=0).astype(np.int32)
    for number, class_id in enumerate(class_ids):
        texture = TEXTURES[STUFF.index(class_id)](height, width, rng)
        mask = region == number
        canvas[mask] = tint(texture, _hue(class_id, rng), STUFF_PALETTE, rng)[mask]
    id_map[:] = region + 1
    if rng.random() < SEAM_RATE:
        seam = cv2.morphologyEx(
            region.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)
        )
        id_map[seam > 0] = 0
    return class_ids


def _paint_crowd(canvas: Image, id_map: NDArray[np.int32], number: int, rng: Generator) -> int:
    """Many small things of one class in one segment, gaps included; returns the class."""
    height, width = id_map.shape
    class_id = int(rng.choice(THINGS))
    middle = _place(height, width, rng)
    spread = np.array([rng.uniform(10, 18), rng.uniform(7, 12)])
    region = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(12, 22))):
        place = middle + np.clip(rng.normal(0, 1, 2), -1.6, 1.6) * spread
        size = rng.uniform(6, 9)
        outlines = [outline * size + place for outline in _outlines(class_id, rng)]
        thing = cut_out(outlines, height, width)
        _paint(canvas, id_map, number, thing, class_id, rng)
        region[thing.window] |= thing.mask().astype(np.uint8)
    closed = cv2.morphologyEx(region, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    id_map[closed > 0] = number
    return class_id


def _hue(class_id: int | None, rng: Generator) -> float:
    """A hue, 0..1: mostly near the one that the class prefers, else any."""
    if class_id is not None and rng.random() < HUE_PREFERENCE:
        return float(rng.normal(PREFERRED_HUE[class_id], HUE_SPREAD) % 1)
    return float(rng.random())


def _fill(class_id: int | None, height: int, width: int, rng: Generator) -> Image:
    """Paint for one object, float32 ``[H, W, 3]``; None is an object of no class."""
    if class_id is not None and rng.random() < FILL_PREFERENCE:
        pattern = FILLS[class_id - 1]
    else:
        pattern = FILLS[rng.integers(len(FILLS))]
    return tint(pattern(height, width, rng), _hue(class_id, rng), THING_PALETTE, rng)
