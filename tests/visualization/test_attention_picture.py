import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from axialseg.visualization.attention import AttentionPanel, attention_figure

QUERY = (16, 40)


def panel(row: int, column: int) -> AttentionPanel:
    """All attention on one position of a map with stride 8."""
    weights = np.zeros((5, 9), np.float32)
    weights[row, column] = 1.0
    return AttentionPanel("both", weights, (8, 8))


def figure(*panels: AttentionPanel) -> Figure:
    image = np.full((33, 65, 3), 128, np.uint8)
    return attention_figure(image, QUERY, panels, "title")


def color_at(axes: Axes, y: float, x: float) -> np.ndarray:
    """RGB of the drawn picture at a pixel of the image."""
    assert isinstance(axes.figure, Figure)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    right, up = axes.transData.transform((x, y))
    return drawn[drawn.shape[0] - 1 - round(up), round(right), :3].astype(int)


@pytest.mark.parametrize(("row", "column"), [(1, 6), (0, 0), (4, 8)])
def test_weights_lie_where_they_belong(row: int, column: int) -> None:
    _, axes, *_ = figure(panel(row, column)).axes
    y, x = 8 * row, 8 * column
    for near in (-2, 2):
        inside = color_at(axes, min(max(y + near, 0), 32), min(max(x + near, 0), 64))
        assert inside[0] > 180 > inside[2]  # yellow
    outside = color_at(axes, y - 6 if row else y + 6, x)
    assert (outside < 60).all()


def test_nothing_is_drawn_where_nothing_is_looked_at() -> None:
    weights = np.full((5, 9), np.nan, np.float32)
    weights[2] = 0.5
    _, axes, *_ = figure(AttentionPanel("row", weights, (8, 8))).axes
    assert color_at(axes, 16, 10)[0] > 180
    red, green, blue = color_at(axes, 24, 10)
    assert red == green == blue  # the image, in grey


def test_every_map_has_its_panel_with_query_and_caption() -> None:
    drawn = figure(panel(0, 0), panel(1, 1)._replace(caption="width axis"))
    pictures = [axes for axes in drawn.axes if len(axes.images)]
    titles = [axes.get_title() for axes in pictures]
    assert titles == ["image, query at (y, x) = (16, 40)", "both", "width axis"]
    for axes in pictures:
        assert {tuple(line.get_xydata()[0]) for line in axes.lines} == {QUERY[::-1]}
    labels = [axes.get_xlabel() for axes in drawn.axes]
    assert labels.count("weight, mean of the heads") == 2
