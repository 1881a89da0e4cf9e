"""Paints one image of the generated `patterns` data: its pattern is its class.

Ten patterns fill the image in any hue, at any scale and angle, with uneven light, blur and noise;
in front of every other one lies an object of no class, which has a pattern of its own. Colours are
drawn without regard to the class. Three of the patterns are stuff of the `shapes` data, and four
are what its things are painted with.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.generated.shape_painting import (
    FILLS,
    TEXTURES,
    Image,
    Palette,
    Pattern,
    axes,
    blob,
    cut_out,
    lay,
    photograph,
    shading,
    smooth_noise,
    tint,
)

# Raise it with every change that alters an image: data on disk of another version is made anew.
GENERATOR_VERSION = 2

SIDES = (40, 60)  # height and width, ends included
OBJECT_RATE = 0.5
DIAMETER = (0.15, 0.4)  # of the object, as a share of the shorter side
PALETTE = Palette(saturation=(0.1, 0.8), contrast=(0.35, 0.65))


def paint_pattern(name: str, rng: Generator) -> NDArray[np.uint8]:
    """Draws an image uint8 ``[H, W, 3]``, RGB, of the class; all of it follows from `rng`."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    canvas = tint(PATTERNS[name](height, width, rng), rng.random(), PALETTE, rng)
    if rng.random() < OBJECT_RATE:
        diameter = rng.uniform(*DIAMETER) * min(height, width)
        middle = rng.uniform(0.0, 1.0, 2) * (width, height)
        thing = cut_out([blob(rng) * diameter + middle], height, width)
        rows, columns = thing.coverage.shape
        fill = FILLS[rng.integers(len(FILLS))](rows, columns, rng)
        lay(canvas, thing, tint(fill, rng.random(), PALETTE, rng) * shading(thing, rng))
    return photograph(canvas, rng)


def _camouflage(height: int, width: int, rng: Generator) -> Image:
    return np.sign(smooth_noise(height, width, rng.uniform(4, 7), rng))


def _bubbles(height: int, width: int, rng: Generator) -> Image:
    """Outlines of circles anywhere, one over the other."""
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(height * width // 100):
        x, y = rng.integers(0, (width, height)).tolist()
        radius = int(rng.integers(4, 8))
        cv2.circle(canvas, (x, y), radius, 0, cv2.FILLED)  # what lies behind does not shine through
        cv2.circle(canvas, (x, y), radius, 255, 2, cv2.LINE_AA)
    return canvas.astype(np.float32) / 127.5 - 1


def _weave(height: int, width: int, rng: Generator) -> Image:
    """A chessboard of fields with three bars each, along and across by turns."""
    along, across = axes(height, width, rng.uniform(0, np.pi))
    field = rng.uniform(9, 15)
    is_across = (np.floor(along / field) + np.floor(across / field)) % 2 == 1
    return np.sign(np.sin(np.where(is_across, across, along) * (6 * np.pi / field)))


_sky, _grass, _brick, _ = TEXTURES
_, _stripes, _dots, _checks, _speckles = FILLS
PATTERNS: dict[str, Pattern] = {
    "brick": _brick,
    "bubbles": _bubbles,
    "camouflage": _camouflage,
    "checks": _checks,
    "dots": _dots,
    "grass": _grass,
    "sky": _sky,
    "speckles": _speckles,
    "stripes": _stripes,
    "weave": _weave,
}
