"""A sheet of small images with two lines of text under each, for classification."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from axialseg.visualization.fonts import text_font
from axialseg.visualization.panoptic import INK, PAPER

SIDE = 200  # longer side of an image on the sheet, in pixels
COLUMNS = 4
GAP, FRAME, TEXT = 16, 4, 14
RIGHT, WRONG = (46, 150, 70), (205, 50, 47)


class GuessedImage(NamedTuple):
    """An image with its class and the guess.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        true_name: of its class.
        guess_name: of the class that was guessed.
        probability: of the guess, 0..1.
        is_right: the guess is the class.
    """

    image: NDArray[np.uint8]
    true_name: str
    guess_name: str
    probability: float
    is_right: bool


def image_grid(guesses: Sequence[GuessedImage]) -> NDArray[np.uint8]:
    """Draws the sheet, four images a row. Right guesses have a green frame, wrong ones a red one.

    Args:
        guesses: one at least.

    Returns:
        uint8 ``[H, W, 3]``, RGB.
    """
    columns = min(COLUMNS, len(guesses))
    rows = -(-len(guesses) // columns)
    cell_width, cell_height = SIDE + 2 * FRAME, SIDE + 2 * FRAME + 3 * TEXT
    width, height = columns * (cell_width + GAP) + GAP, rows * (cell_height + GAP) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    for place, guess in enumerate(guesses):
        left = GAP + place % columns * (cell_width + GAP)
        top = GAP + place // columns * (cell_height + GAP)
        _draw(sheet, guess, left, top)
    return np.asarray(sheet)


def _draw(sheet: Image.Image, guess: GuessedImage, left: int, top: int) -> None:
    color = RIGHT if guess.is_right else WRONG
    scale = SIDE / max(guess.image.shape)
    size = round(guess.image.shape[1] * scale), round(guess.image.shape[0] * scale)
    picture = Image.fromarray(guess.image).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(sheet)
    right, bottom = left + size[0] + 2 * FRAME, top + size[1] + 2 * FRAME
    draw.rectangle((left, top, right - 1, bottom - 1), color)
    sheet.paste(picture, (left + FRAME, top + FRAME))
    below = bottom + TEXT
    texts = (guess.true_name, INK), (f"{guess.guess_name} {guess.probability:.0%}", color)
    for line, (text, ink) in enumerate(texts):
        shown = _shortened(text, SIDE + 2 * FRAME)
        draw.text(
            (left, below + line * 1.3 * TEXT), shown, ink, text_font(TEXT, shown), anchor="lm"
        )


def _shortened(text: str, width: int) -> str:
    """A text, shortened so that it fits; its end, the probability, is kept."""
    font = text_font(TEXT)
    if font.getlength(text) <= width:
        return text
    head, _, tail = text.rpartition(" ")
    head, tail = (head, f" {tail}") if tail.endswith("%") else (text, "")
    while head and font.getlength(f"{head}...{tail}") > width:
        head = head[:-1]
    return f"{head}...{tail}"
