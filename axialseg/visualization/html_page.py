"""Pages that are one HTML file and need no other: their style, bars and pictures."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


def html_page(title: str, body: str, style: str = "", script: str = "") -> str:
    """The whole file.

    Args:
        title: plain text.
        body: HTML.
        style: further CSS.
        script: JavaScript, run at the end.
    """
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def bar_chart(
    title: str, rows: Sequence[tuple[str, int]], second: Sequence[int] | None = None
) -> str:
    """Horizontal bars with their labels and counts.

    Args:
        title: plain text.
        rows: label and count of each bar.
        second: counts that are shown behind the first ones of each row, in another colour.
    """
    others = second if second is not None else [0] * len(rows)
    most = max((a + b for (_, a), b in zip(rows, others, strict=True)), default=1)
    label, bar, height = 130, 160, 18
    lines = [f'<svg viewBox="0 0 {label + bar + 70} {height * len(rows)}" role="img">']
    for n, ((name, count), other) in enumerate(zip(rows, others, strict=True)):
        middle = n * height + 12
        width, behind = (max(bar * c / max(most, 1), 1 if c else 0) for c in (count, other))
        text = f"{count:,}" if second is None else f"{count:,} + {other:,}"
        lines.append(
            f'<text x="{label - 6}" y="{middle}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{label}" y="{n * height + 3}" width="{width:.1f}" height="12" rx="2"/>'
        )
        if second is not None:
            lines.append(
                f'<rect class="second" x="{label + width:.1f}" y="{n * height + 3}" '
                f'width="{behind:.1f}" height="12" rx="2"/>'
            )
        lines.append(f'<text x="{label + width + behind + 6:.1f}" y="{middle}">{text}</text>')
    return f"<div><h4>{escape(title)}</h4>{''.join(lines)}</svg></div>"


def inline_jpeg(picture: NDArray[np.uint8], name: str, quality: int = 82) -> str:
    """An `<img>` that holds its picture, uint8 ``[H, W, 3]`` RGB; `name` is plain text."""
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    content = base64.b64encode(encoded.tobytes()).decode()
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{content}">'


def swatch(color: tuple[int, int, int]) -> str:
    """A small square in an RGB colour."""
    red, green, blue = color
    return f'<span class="swatch" style="background: rgb({red}, {green}, {blue})"></span>'
