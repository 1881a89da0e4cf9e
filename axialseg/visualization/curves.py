"""Training curves as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

LOGARITHMIC_FROM = 20  # the largest curve is so many times the smallest


def save_curves(
    rows: Iterable[Mapping[str, float]],
    panels: Mapping[str, Sequence[str]],
    path: str | Path,
    step: str = "step",
) -> None:
    """Draws logged numbers over the steps as a PNG, one panel beside the other.

    Args:
        rows: as of a CSV log; a row need not hold every name, and NaN counts as absent.
        panels: title of a panel -> names of its curves. A curve without numbers is left out. Curves
            of very different size share a logarithmic axis.
        path: the PNG file.
        step: name of the x axis in `rows`.
    """
    rows = list(rows)
    figure = Figure(figsize=(6 * len(panels), 4), dpi=120, layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for number, name in enumerate(names):
            logged = [row for row in rows if np.isfinite(row.get(name, np.nan))]
            if logged:
                steps, values = np.array([(row[step], row[name]) for row in logged]).T
                _draw_curve(axes, steps, values, name.rsplit("/")[-1], f"C{number}")
        axes.set(title=title, xlabel=step)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
        medians = [np.median(line.get_ydata()) for line in axes.lines]
        if medians and min(medians) > 0 and max(medians) > LOGARITHMIC_FROM * min(medians):
            axes.set_yscale("log")
    figure.savefig(path)


def _draw_curve(
    axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], label: str, color: str
) -> None:
    """A line; long noisy ones as their running mean over a pale original."""
    window = len(values) // 40
    if window < 3:
        axes.plot(steps, values, label=label, color=color, marker="o" if len(values) < 20 else "")
        return
    axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
    mean = ndimage.uniform_filter1d(values, window, mode="nearest")
    axes.plot(steps, mean, label=label, color=color)
