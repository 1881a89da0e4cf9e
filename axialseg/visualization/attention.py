"""Draws what one pixel attends to, over its image.

Feature position i of stride s lies on pixel i * s of the image, as aligned corners have it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

PANEL_INCHES = 4.6
DPI = 110
COLORS, OPACITY = "inferno", 0.75
MARK = "#19d3f3"  # of the query; no colour of the map


class AttentionPanel(NamedTuple):
    """One map to draw.

    Attributes:
        caption: above the panel.
        weights: float ``[H, W]``, of the feature map; NaN where the layer does not look.
        strides: pixels from one feature position to the next, vertically and horizontally.
    """

    caption: str
    weights: NDArray[np.float32]
    strides: tuple[int, int]


def attention_figure(
    image: NDArray[np.uint8],
    query: tuple[int, int],
    panels: Sequence[AttentionPanel],
    title: str,
) -> Figure:
    """The image with the query, and each map over the image, side by side.

    Args:
        image: RGB ``[H, W, 3]``, as the network saw it.
        query: (y, x) in pixels of `image`.
        panels: maps of the same image.
        title: above all.
    """
    height, width = image.shape[:2]
    count = 1 + len(panels)
    panel_height = PANEL_INCHES * height / width
    figure = Figure((count * PANEL_INCHES, panel_height + 1.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=13)
    # Below each picture its colour bar; the first has none.
    grid = figure.subplots(2, count, height_ratios=[panel_height, 0.18])
    places: list[Axes] = list(grid[0])
    places[0].imshow(image)
    places[0].set_title(f"image, query at (y, x) = {query}")
    grid[1, 0].axis("off")
    grey = image.mean(2) * 0.55
    for place, bar, panel in zip(places[1:], grid[1, 1:], panels, strict=True):
        place.imshow(grey, cmap="gray", vmin=0, vmax=255)
        _draw_map(figure, place, bar, panel)
    for place in places:
        _mark(place, query)
        place.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    return figure


def _draw_map(figure: Figure, axes: Axes, bar: Axes, panel: AttentionPanel) -> None:
    rows, columns = panel.weights.shape
    down, right = panel.strides
    drawn = axes.imshow(
        panel.weights,
        cmap=COLORS,
        vmin=0,
        vmax=float(np.nanmax(panel.weights)),
        alpha=OPACITY,
        extent=(-right / 2, (columns - 0.5) * right, (rows - 0.5) * down, -down / 2),
        interpolation="nearest",
    )
    axes.set_title(panel.caption)
    label = "weight, mean of the heads"
    figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=MaxNLocator(4), label=label)


def _mark(axes: Axes, query: tuple[int, int]) -> None:
    y, x = query
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor="black", mew=4)
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor=MARK, mew=2)
