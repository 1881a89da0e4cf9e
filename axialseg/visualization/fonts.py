"""Fonts for pictures: one that is the same everywhere, and another for what it lacks.

DejaVu Sans, which matplotlib brings along, has Latin, Greek, Cyrillic and more, but no Chinese,
Japanese or Korean. Such names are written in a font of the system. If there is none, a class is
called by its number, and the log says so once.
"""

import logging
from functools import cache

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from axialseg.panoptic.categories import Category

log = logging.getLogger(__name__)


def legible(category: Category) -> str:
    """The name of a class, or where no font has its characters, what stands for it."""
    return category.name if font_file(category.name) else f"class {category.class_id}"


def text_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """The font that writes a text.

    Args:
        size: in pixels.
        text: see `legible`.
    """
    return _font(font_file(text) or _default(), size)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def font_file(text: str) -> str | None:
    """A font that has all characters of a text, the default one first; None if there is none."""
    wanted = {ord(character) for character in text if not character.isspace()}
    if wanted <= _characters(_default()):
        return _default()
    for path in _system_fonts():
        if wanted <= _characters(path):
            return path
    _tell_once(text)
    return None


def _default() -> str:
    return f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@cache
def _system_fonts() -> tuple[str, ...]:
    return tuple(sorted(font_manager.findSystemFonts()))


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # a bitmap font, or a damaged one
        return frozenset()


_TOLD: set[str] = set()


def _tell_once(text: str) -> None:
    if not _TOLD:
        log.warning(
            "No font of this system has the characters of the class name %s: pictures call such a "
            "class by its number; install one, as fonts-noto-cjk.",
            text,
        )
    _TOLD.add(text)
