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

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

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
RIM = (0.0, 0.7)  # how much darker objects are at their border

Image = NDArray[np.float32]


class Palette(NamedTuple):
    """Ranges that paint is drawn from: saturation, and how much brightness follows the pattern."""

    saturation: tuple[float, float]
    contrast: tuple[float, float]


STUFF_PALETTE = Palette(saturation=(0.15, 0.55), contrast=(0.15, 0.4))
THING_PALETTE = Palette(saturation=(0.45, 0.95), contrast=(0.1, 0.3))

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


class Cutout(NamedTuple):
    """Where an object lies: its window (rows, columns) and the share of each pixel in it, 0..1."""

    window: tuple[slice, slice]
    coverage: Image

    def mask(self) -> NDArray[np.bool_]:
        """Pixels that are the object's: those it covers more than half of, bool ``[h, w]``."""
        return self.coverage > 0.5


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
        outline = [_blob(rng) * rng.uniform(10, 30) + _place(height, width, rng)]
        _paint(canvas, id_map, 0, _cut_out(outline, height, width), None, rng)
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
    return Scene(_photograph(canvas, rng), _without_empty(segments))


def _without_empty(segments: PanopticSegments) -> PanopticSegments:
    """Drops segments without pixels and renumbers the rest."""
    present = segments.areas() > 0
    numbers = np.concatenate(([0], np.cumsum(present) * present)).astype(np.int32)
    return PanopticSegments(
        numbers[segments.id_map], segments.class_ids[present], segments.is_crowd[present]
    )


# Forms: closed outlines, float64 [points, 2] as (x, y), of about unit diameter around the origin.


def _outlines(class_id: int, rng: Generator) -> list[NDArray[np.float64]]:
    """Outlines of one thing; a second one is a hole."""
    if class_id == 1:
        forms = [_polygon(48)]
    elif class_id == 2:
        forms = [_polygon(4) * 1.15]
    elif class_id == 3:
        forms = [_polygon(3) * 1.25]
    elif class_id == 4:
        star = _polygon(10) * 1.25
        star[1::2] *= rng.uniform(0.38, 0.5)
        forms = [star]
    else:
        forms = [_polygon(48) * 1.05, _polygon(48) * rng.uniform(0.45, 0.62)]
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.72, 1.0)])
    tilt = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    # Turning, squeezing along one axis, and turning again gives any mild perspective.
    return [form @ rotation * squeeze @ turn for form in forms]


def _polygon(corners: int) -> NDArray[np.float64]:
    """Regular polygon in a circle of diameter 1."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    return 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _blob(rng: Generator) -> NDArray[np.float64]:
    """Smooth irregular outline of about unit diameter: the form of no class."""
    angles = np.arange(64) * (2 * np.pi / 64)
    radius = np.full(64, 0.5)
    for harmonic in (2, 3, 5):
        radius += rng.uniform(0.05, 0.12) * np.sin(harmonic * angles + rng.uniform(0, 2 * np.pi))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _place(height: int, width: int, rng: Generator) -> NDArray[np.float64]:
    """A centre (x, y); objects near it may be cut by the border."""
    return np.array([rng.uniform(0.08, 0.92) * width, rng.uniform(0.08, 0.92) * height])


def _cut_out(outlines: list[NDArray[np.float64]], height: int, width: int) -> Cutout:
    """The part inside the outlines and the image, from 4 x 4 samples a pixel."""
    low = np.clip(np.floor(np.min(outlines[0], axis=0)).astype(int) - 1, 0, (width - 1, height - 1))
    high = np.clip(np.ceil(np.max(outlines[0], axis=0)).astype(int) + 1, low + 1, (width, height))
    columns, rows = (high - low).tolist()
    fine = np.zeros((rows * 4, columns * 4), np.uint8)
    # fillPoly takes sixteenths of a (fine) pixel; several outlines fill by the even-odd rule.
    points = [np.rint(((outline - low) * 4 - 0.5) * 16).astype(np.int32) for outline in outlines]
    cv2.fillPoly(fine, points, 255, shift=4)
    coverage = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)
    window = slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
    return Cutout(window, np.float32(1 / 255) * coverage.astype(np.float32))


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
        thing = _cut_out([outline + place for outline in outlines], height, width)
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
    along, _ = _axes(height, width, rng.uniform(0, 2 * np.pi))
    along = (along - along.mean()) / max(height, width)
    shade = 1 + 2 * rng.uniform(0.1, 0.35) * along
    inside = cv2.erode(thing.coverage, np.ones((3, 3), np.uint8))
    shade *= 1 - rng.uniform(*RIM) * (1 - inside)
    fill = _fill(class_id, height, width, rng) * shade[..., None]
    canvas[thing.window] += (fill - canvas[thing.window]) * thing.coverage[..., None]
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
    grid += np.stack([_smooth_noise(height, width, 10.0, rng) for _ in range(2)]) * 7
    squared = [((grid - seed[:, None, None]) ** 2).sum(0) for seed in seeds]
    region = np.argmin(squared, axis=0).astype(np.int32)
    for number, class_id in enumerate(class_ids):
        texture = STUFF_PATTERNS[class_id](height, width, rng)
        mask = region == number
        canvas[mask] = _tint(texture, _hue(class_id, rng), STUFF_PALETTE, rng)[mask]
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
        thing = _cut_out(outlines, height, width)
        _paint(canvas, id_map, number, thing, class_id, rng)
        region[thing.window] |= thing.mask().astype(np.uint8)
    closed = cv2.morphologyEx(region, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    id_map[closed > 0] = number
    return class_id


def _photograph(canvas: Image, rng: Generator) -> NDArray[np.uint8]:
    """Uneven light, blur and sensor noise; uint8 ``[H, W, 3]``."""
    height, width = canvas.shape[:2]
    light = 1 + 0.15 * _smooth_noise(height, width, 40.0, rng)
    photo = canvas * (light * rng.uniform(0.85, 1.1))[..., None]
    blurred = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.7))
    noise = rng.standard_normal(photo.shape, np.float32) * rng.uniform(0.01, 0.035)
    return np.rint(np.clip(blurred + noise, 0, 1) * 255).astype(np.uint8)


# Colour and texture. A pattern is float32 [H, W], about -1..1.


def _hue(class_id: int | None, rng: Generator) -> float:
    """Hue in turns: mostly near the preference of the class, else any."""
    if class_id is not None and rng.random() < HUE_PREFERENCE:
        return float(rng.normal(PREFERRED_HUE[class_id], HUE_SPREAD) % 1)
    return float(rng.random())


def _tint(pattern: Image, hue: float, palette: Palette, rng: Generator) -> Image:
    """Colours a pattern: one hue that wanders a little with it, brightness that follows it."""
    contrast, wander = rng.uniform(*palette.contrast), rng.uniform(-0.04, 0.04)
    hsv = np.empty((*pattern.shape, 3), np.float32)
    hsv[..., 0] = ((hue + wander * pattern) % 1) * 360
    hsv[..., 1] = rng.uniform(*palette.saturation)
    hsv[..., 2] = rng.uniform(0.45, 0.95) * (1 + contrast * pattern)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)


def _fill(class_id: int | None, height: int, width: int, rng: Generator) -> Image:
    """Paint for one object, float32 ``[H, W, 3]``; None is an object of no class."""
    if class_id is not None and rng.random() < FILL_PREFERENCE:
        pattern = FILLS[class_id - 1]
    else:
        pattern = FILLS[rng.integers(len(FILLS))]
    return _tint(pattern(height, width, rng), _hue(class_id, rng), THING_PALETTE, rng)


def _smooth_noise(height: int, width: int, sigma: float, rng: Generator) -> Image:
    """Gaussian noise smoothed over `sigma` pixels, unit variance."""
    step = max(int(sigma / 2), 1)
    small = rng.standard_normal((height // step + 4, width // step + 4), np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), sigma / step)
    smooth = (smooth - smooth.mean()) / (smooth.std() + 1e-6)
    return np.asarray(
        cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def _axes(height: int, width: int, angle: float) -> tuple[Image, Image]:
    """Coordinates along and across a direction, float32 ``[H, W]`` each."""
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return xs * cos + ys * sin, ys * cos - xs * sin


def _sky(height: int, width: int, rng: Generator) -> Image:
    _, across = _axes(height, width, rng.normal(0, 0.3))
    gradient = across / height * 2 - 1
    return gradient * rng.choice([-1, 1]) + 0.3 * _smooth_noise(height, width, 12.0, rng)


def _grass(height: int, width: int, rng: Generator) -> Image:
    noise = rng.standard_normal((height, width), np.float32)
    blades = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.7, sigmaY=rng.uniform(2.0, 3.5))
    lean = np.array([[1, rng.uniform(-0.5, 0.5), 0], [0, 1, 0]])
    blades = cv2.warpAffine(blades, lean, (width, height), borderMode=cv2.BORDER_WRAP)
    return np.asarray(np.clip(blades / blades.std(), -2, 2) * 0.8, np.float32)


def _brick(height: int, width: int, rng: Generator) -> Image:
    along, across = _axes(height, width, rng.normal(0, 0.25))
    tall = rng.uniform(6, 10)
    wide = tall * rng.uniform(1.8, 2.4)
    row = np.floor(across / tall)
    column = np.floor(along / wide + 0.5 * (row % 2))
    shade = rng.uniform(-0.5, 0.7, (64, 64)).astype(np.float32)
    wall = shade[row.astype(int) % 64, column.astype(int) % 64]
    mortar = (across % tall < 1.3) | ((along + 0.5 * wide * (row % 2)) % wide < 1.3)
    return np.where(mortar, np.float32(rng.choice([-1.6, 1.6])), wall)


def _water(height: int, width: int, rng: Generator) -> Image:
    along, across = _axes(height, width, rng.normal(0, 0.2))
    swell = rng.uniform(1.0, 2.2) * np.sin(along * (2 * np.pi / rng.uniform(16, 30)))
    waves = np.sin((across + swell) * (2 * np.pi / rng.uniform(5, 10)))
    return waves + 0.25 * _smooth_noise(height, width, 5.0, rng)


def _plain(height: int, width: int, rng: Generator) -> Image:
    return 0.3 * _smooth_noise(height, width, 20.0, rng)


def _stripes(height: int, width: int, rng: Generator) -> Image:
    along, _ = _axes(height, width, rng.uniform(0, np.pi))
    return np.sign(np.sin(along * (2 * np.pi / rng.uniform(6, 14))))


def _dots(height: int, width: int, rng: Generator) -> Image:
    along, across = _axes(height, width, rng.uniform(0, np.pi))
    turn = 2 * np.pi / rng.uniform(7, 12)
    is_dot = np.sin(along * turn) * np.sin(across * turn) > 0.35
    return np.where(is_dot, np.float32(1.5), np.float32(-0.3))


def _checks(height: int, width: int, rng: Generator) -> Image:
    along, across = _axes(height, width, rng.uniform(0, np.pi))
    turn = 2 * np.pi / rng.uniform(9, 18)
    return np.sign(np.sin(along * turn) * np.sin(across * turn))


def _speckles(height: int, width: int, rng: Generator) -> Image:
    return np.clip(_smooth_noise(height, width, 2.0, rng), -2, 2)


STUFF_PATTERNS: dict[int, Callable[[int, int, Generator], Image]] = {
    6: _sky, 7: _grass, 8: _brick, 9: _water,
}  # fmt: skip
FILLS: tuple[Callable[[int, int, Generator], Image], ...] = (
    _plain, _stripes, _dots, _checks, _speckles,
)  # fmt: skip
