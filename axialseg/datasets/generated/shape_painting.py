"""Paint and brushes of the generated data: forms, textures, shading, and the camera.

All coordinates are pixels; colours are RGB 0..1, float32 ``[H, W, 3]``. Everything random follows
from the generator that is given, in a fixed order of draws: a change here changes the data of
`shape_scenes.py` and `pattern_images.py`, whose versions must then be raised.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

RIM = (0.0, 0.7)  # how much darker objects are at their border

Image = NDArray[np.float32]
Outline = NDArray[np.float64]
Pattern = Callable[[int, int, Generator], Image]


class Palette(NamedTuple):
    """Ranges that paint is drawn from: saturation, and how much brightness follows the pattern."""

    saturation: tuple[float, float]
    contrast: tuple[float, float]


STUFF_PALETTE = Palette(saturation=(0.15, 0.55), contrast=(0.15, 0.4))
THING_PALETTE = Palette(saturation=(0.45, 0.95), contrast=(0.1, 0.3))


class Cutout(NamedTuple):
    """Where an object lies: its window (rows, columns) and the share of each pixel in it, 0..1."""

    window: tuple[slice, slice]
    coverage: Image

    def mask(self) -> NDArray[np.bool_]:
        """Pixels that are the object's: those it covers more than half of, bool ``[h, w]``."""
        return self.coverage > 0.5


# Forms: closed outlines, float64 [points, 2] as (x, y), of about unit diameter around the origin.


def polygon(corners: int) -> NDArray[np.float64]:
    """Regular polygon in a circle of diameter 1."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    return 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def blob(rng: Generator) -> NDArray[np.float64]:
    """Smooth irregular outline of about unit diameter: the form of no class."""
    angles = np.arange(64) * (2 * np.pi / 64)
    radius = np.full(64, 0.5)
    for harmonic in (2, 3, 5):
        radius += rng.uniform(0.05, 0.12) * np.sin(harmonic * angles + rng.uniform(0, 2 * np.pi))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def distort(forms: Sequence[Outline], rng: Generator) -> list[Outline]:
    """The outlines of one object seen from anywhere: turned, and squeezed along any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.72, 1.0)])
    tilt = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    # Turning, squeezing along one axis, and turning again gives any mild perspective.
    return [form @ rotation * squeeze @ turn for form in forms]


def cut_out(outlines: list[NDArray[np.float64]], height: int, width: int) -> Cutout:
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


# Painting.


def shading(thing: Cutout, rng: Generator) -> Image:
    """Factors on an object's paint ``[h, w, 1]``: lighter to one side, darker at the rim."""
    height, width = thing.coverage.shape
    along, _ = axes(height, width, rng.uniform(0, 2 * np.pi))
    along = (along - along.mean()) / max(height, width)
    shade = 1 + 2 * rng.uniform(0.1, 0.35) * along
    inside = cv2.erode(thing.coverage, np.ones((3, 3), np.uint8))
    shade *= 1 - rng.uniform(*RIM) * (1 - inside)
    return shade[..., None]


def lay(canvas: Image, thing: Cutout, paint: Image) -> None:
    """Puts an object over the canvas, `paint` is ``[h, w, 3]``; its border pixels mix."""
    canvas[thing.window] += (paint - canvas[thing.window]) * thing.coverage[..., None]


def photograph(canvas: Image, rng: Generator) -> NDArray[np.uint8]:
    """Uneven light, blur and sensor noise; uint8 ``[H, W, 3]``."""
    height, width = canvas.shape[:2]
    light = 1 + 0.15 * smooth_noise(height, width, 40.0, rng)
    photo = canvas * (light * rng.uniform(0.85, 1.1))[..., None]
    blurred = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.7))
    noise = rng.standard_normal(photo.shape, np.float32) * rng.uniform(0.01, 0.035)
    return np.rint(np.clip(blurred + noise, 0, 1) * 255).astype(np.uint8)


# Colour and texture. A pattern is float32 [H, W], about -1..1.


def tint(pattern: Image, hue: float, palette: Palette, rng: Generator) -> Image:
    """Colours a pattern: one hue that wanders a little with it, brightness that follows it."""
    contrast, wander = rng.uniform(*palette.contrast), rng.uniform(-0.04, 0.04)
    hsv = np.empty((*pattern.shape, 3), np.float32)
    hsv[..., 0] = ((hue + wander * pattern) % 1) * 360
    hsv[..., 1] = rng.uniform(*palette.saturation)
    hsv[..., 2] = rng.uniform(0.45, 0.95) * (1 + contrast * pattern)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)


def smooth_noise(height: int, width: int, sigma: float, rng: Generator) -> Image:
    """Gaussian noise smoothed over `sigma` pixels, unit variance."""
    step = max(int(sigma / 2), 1)
    small = rng.standard_normal((height // step + 4, width // step + 4), np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), sigma / step)
    smooth = (smooth - smooth.mean()) / (smooth.std() + 1e-6)
    return np.asarray(
        cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def axes(height: int, width: int, angle: float) -> tuple[Image, Image]:
    """Coordinates along and across a direction, float32 ``[H, W]`` each."""
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return xs * cos + ys * sin, ys * cos - xs * sin


def _sky(height: int, width: int, rng: Generator) -> Image:
    _, across = axes(height, width, rng.normal(0, 0.3))
    gradient = across / height * 2 - 1
    return gradient * rng.choice([-1, 1]) + 0.3 * smooth_noise(height, width, 12.0, rng)


def _grass(height: int, width: int, rng: Generator) -> Image:
    noise = rng.standard_normal((height, width), np.float32)
    blades = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.7, sigmaY=rng.uniform(2.0, 3.5))
    lean = np.array([[1, rng.uniform(-0.5, 0.5), 0], [0, 1, 0]])
    blades = cv2.warpAffine(blades, lean, (width, height), borderMode=cv2.BORDER_WRAP)
    return np.asarray(np.clip(blades / blades.std(), -2, 2) * 0.8, np.float32)


def _brick(height: int, width: int, rng: Generator) -> Image:
    along, across = axes(height, width, rng.normal(0, 0.25))
    tall = rng.uniform(6, 10)
    wide = tall * rng.uniform(1.8, 2.4)
    row = np.floor(across / tall)
    column = np.floor(along / wide + 0.5 * (row % 2))
    shade = rng.uniform(-0.5, 0.7, (64, 64)).astype(np.float32)
    wall = shade[row.astype(int) % 64, column.astype(int) % 64]
    mortar = (across % tall < 1.3) | ((along + 0.5 * wide * (row % 2)) % wide < 1.3)
    return np.where(mortar, np.float32(rng.choice([-1.6, 1.6])), wall)


def _water(height: int, width: int, rng: Generator) -> Image:
    along, across = axes(height, width, rng.normal(0, 0.2))
    swell = rng.uniform(1.0, 2.2) * np.sin(along * (2 * np.pi / rng.uniform(16, 30)))
    waves = np.sin((across + swell) * (2 * np.pi / rng.uniform(5, 10)))
    return waves + 0.25 * smooth_noise(height, width, 5.0, rng)


def _plain(height: int, width: int, rng: Generator) -> Image:
    return 0.3 * smooth_noise(height, width, 20.0, rng)


def _stripes(height: int, width: int, rng: Generator) -> Image:
    along, _ = axes(height, width, rng.uniform(0, np.pi))
    return np.sign(np.sin(along * (2 * np.pi / rng.uniform(6, 14))))


def _dots(height: int, width: int, rng: Generator) -> Image:
    along, across = axes(height, width, rng.uniform(0, np.pi))
    turn = 2 * np.pi / rng.uniform(7, 12)
    is_dot = np.sin(along * turn) * np.sin(across * turn) > 0.35
    return np.where(is_dot, np.float32(1.5), np.float32(-0.3))


def _checks(height: int, width: int, rng: Generator) -> Image:
    along, across = axes(height, width, rng.uniform(0, np.pi))
    turn = 2 * np.pi / rng.uniform(9, 18)
    return np.sign(np.sin(along * turn) * np.sin(across * turn))


def _speckles(height: int, width: int, rng: Generator) -> Image:
    return np.clip(smooth_noise(height, width, 2.0, rng), -2, 2)


# What stuff is made of (sky, grass, brick, water), and what things are painted with.
TEXTURES: tuple[Pattern, ...] = (_sky, _grass, _brick, _water)
FILLS: tuple[Pattern, ...] = (_plain, _stripes, _dots, _checks, _speckles)
