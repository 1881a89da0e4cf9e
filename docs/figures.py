"""Draws the figures of the documentation: `python docs/figures.py`."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent / "figures"
COLORS = {"data": "#d6eaf8", "model": "#d5f5e3", "result": "#fdebd0"}
BOX = (2.6, 0.9)  # width and height
# Name -> (column, row, kind, title, what it is).
BOXES = {
    "files": (0, 0, "data", "files", "official folders"),
    "reader": (1, 0, "data", "reader", "image, segments"),
    "transforms": (2, 0, "data", "transforms", "crop, colours"),
    "targets": (3, 0, "data", "targets", "centres or masks"),
    "loader": (4, 0, "data", "loader", "batches"),
    "network": (4, 1, "model", "network", "raw heads"),
    "loss": (3, 1, "model", "loss", "terms of each image"),
    "step": (2, 1, "model", "step", "gradient, optimiser"),
    "weights": (1, 1, "model", "weights", "checkpoints"),
    "postprocess": (4, 2, "result", "post-processing", "panoptic map"),
    "original": (3, 2, "result", "original size", "tiles, scales"),
    "metrics": (2, 2, "result", "metrics", "PQ, mIoU, AP"),
    "report": (1, 2, "result", "report", "tables, pictures"),
    "export": (0, 2, "result", "official files", "PNG, JSON, archives"),
}
ARROWS = (
    *("files reader", "reader transforms", "transforms targets", "targets loader"),
    *("loader network", "network loss", "loss step", "step weights", "network postprocess"),
    *("postprocess original", "original metrics", "metrics report", "report export"),
)


def main() -> None:
    """Writes all figures."""
    FOLDER.mkdir(exist_ok=True)
    # The same bytes each time.
    mpl.rcParams.update({"svg.hashsalt": "axialseg", "svg.fonttype": "none"})
    draw_data_way(FOLDER / "data_way.svg")


def draw_data_way(path: Path) -> None:
    """The way of the data, from the files to the scores."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots()
    for column, row, kind, title, text in BOXES.values():
        _draw_box(axes, _center(column, row), COLORS[kind], title, text)
    for pair in ARROWS:
        start, end = (BOXES[name][:2] for name in pair.split())
        _draw_arrow(axes, start, end)
    for row, text in enumerate(("data", "training", "evaluation, predict")):
        x, y = _center(5, row)
        axes.text(x - 1.4, y, text, va="center", fontsize=13, color="#555555")
    axes.set(xlim=(-1.5, 17.0), ylim=(-4.0, 0.7), aspect="equal")
    axes.axis("off")
    figure.savefig(path, facecolor="white", metadata={"Date": None})


def _center(column: int, row: int) -> tuple[float, float]:
    return 3.1 * column, -1.6 * row


def _draw_box(axes: Axes, center: tuple[float, float], color: str, title: str, text: str) -> None:
    x, y = center
    corner = x - BOX[0] / 2, y - BOX[1] / 2
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, *BOX, boxstyle=style, facecolor=color, edgecolor="#777"))
    axes.text(x, y + 0.17, title, ha="center", va="center", fontsize=13, weight="bold")
    axes.text(x, y - 0.2, text, ha="center", va="center", fontsize=11, color="#333333")


def _draw_arrow(axes: Axes, start: tuple[int, ...], end: tuple[int, ...]) -> None:
    (x0, y0), (x1, y1) = _center(*start), _center(*end)
    half = (BOX[0] / 2 if y0 == y1 else 0.0), (BOX[1] / 2 if y0 != y1 else 0.0)
    sign_x, sign_y = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    tail = x0 + sign_x * half[0], y0 + sign_y * half[1]
    head = x1 - sign_x * half[0], y1 - sign_y * half[1]
    arrow = FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=14, color="#444444")
    axes.add_patch(arrow)


if __name__ == "__main__":
    main()
