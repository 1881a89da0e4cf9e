"""What one pixel of a picture attends to, ready to be drawn."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from axialseg.datasets.classification_transforms import CenterCrop
from axialseg.errors import UserError
from axialseg.inference.attention_maps import (
    FeatureGrid,
    axial_layers,
    axis_attention,
    block_attention,
    record_attention,
)
from axialseg.layers.axial_attention import AxialAttention
from axialseg.visualization.attention import AttentionPanel, attention_figure

SHOWN_LAYERS = 12


@dataclass(frozen=True, eq=False)
class AttentionExplanation:
    """The attention of one pixel, in one layer or through both axes of one block.

    Attributes:
        image: uint8 ``[H, W, 3]``, as the network saw it.
        query: (y, x) of the pixel in it.
        layer: name of the layer or block.
        maps: one for each layer, and for a block one for both axes together.
        title: of the picture.
    """

    image: NDArray[np.uint8]
    query: tuple[int, int]
    layer: str
    maps: tuple[AttentionPanel, ...]
    title: str

    def plot(self) -> Figure:
        """The image with the pixel, and each map over the image, side by side."""
        return attention_figure(self.image, self.query, self.maps, self.title)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        content = BytesIO()
        self.plot().savefig(content, format="png")
        return content.getvalue()


def explain_attention(
    net: nn.Module,
    transform: Any | None,
    image: NDArray[np.uint8],
    pixel: tuple[int, int],
    layer: str | None,
    name: str,
) -> AttentionExplanation:
    """Runs the network once and looks at its attention.

    Args:
        net: in evaluation mode.
        transform: prepares the image as the evaluation does; None takes it as it is.
        image: uint8 ``[H, W, 3]``.
        pixel: (y, x) in it.
        layer: see `find_layers`; None is the last block of the backbone.
        name: of the model, for the title.

    Raises:
        UserError: there is no such layer, or the network does not see the pixel.
    """
    layers = axial_layers(net)
    if layer is None:
        of_backbone = [known for known in layers if known.startswith("backbone.")]
        layer = of_backbone[-1].rpartition(".")[0] if of_backbone else ""
    names = find_layers(layers, layer)
    shown, valid, query = _prepared(image, transform, pixel)
    device = next(net.parameters()).device
    with torch.inference_mode(), record_attention(net, names) as maps:
        # All of the network: MaX-DeepLab's memory changes what its backbone's blocks see.
        net(
            torch.tensor(shown, device=device).permute(2, 0, 1)[None],
            torch.tensor(valid, device=device)[None],
        )
    missing = [known for known in names if known not in maps]
    if missing:
        raise UserError(f"layer={missing[0]} is not run by this model; name another one")
    panels = _panels({layers[known]: maps[known].cpu() for known in names}, query, shown)
    common = names[0] if len(names) == 1 else names[0].rpartition(".")[0]
    return AttentionExplanation(shown, query, common, tuple(panels), f"{name}: {common}")


def find_layers(layers: Iterable[str], wanted: str) -> list[str]:
    """The layer that is meant, or the height-axis and width-axis layers of the block.

    Args:
        layers: names of all axial attention layers.
        wanted: whole words of such a name, one after the other.

    Raises:
        UserError: there is none, or there are several.
    """
    layers = list(layers)
    found = [name for name in layers if f".{wanted}." in f".{name}."]
    if len(found) == 1 or len({name.rpartition(".")[0] for name in found}) == 1:
        return found
    if not layers:
        raise UserError("this model has no axial attention; choose one that has")
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in found or layers))
    listed = ", ".join(blocks[:SHOWN_LAYERS]) + (", ..." if len(blocks) > SHOWN_LAYERS else "")
    what = "stands for several layers" if found else "is not a layer of this model"
    raise UserError(
        f"layer={wanted} {what}; name one of {listed}, or .height_axis or .width_axis below it"
    )


def _prepared(
    image: NDArray[np.uint8], transform: Any | None, pixel: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[int, int]]:
    """The picture as the network sees it in evaluation, its valid pixels, and the pixel in it."""
    height, width = image.shape[:2]
    y, x = pixel
    if not (0 <= y < height and 0 <= x < width):
        raise UserError(
            f"query=[{y},{x}] lies outside the image, which has {height} rows and {width} columns"
        )
    if transform is None:
        return image, np.ones((height, width), bool), (y, x)
    if isinstance(transform, CenterCrop):
        shown, (row, column) = transform(image), transform.place(height, width, (y, x))
        if not (0 <= row < transform.height and 0 <= column < transform.width):
            raise UserError(
                f"query=[{y},{x}] lies outside the middle of the image, which is all that a "
                "classifier sees; name another pixel"
            )
        return shown, np.ones(shown.shape[:2], bool), (row, column)
    prepared, (new_height, new_width) = transform(image)
    y = round(y * (new_height - 1) / max(height - 1, 1))
    x = round(x * (new_width - 1) / max(width - 1, 1))
    return prepared.image, prepared.valid, (y, x)


def _panels(
    maps: dict[AxialAttention, Tensor], query: tuple[int, int], image: NDArray[np.uint8]
) -> list[AttentionPanel]:
    """One map for each layer, and one for both axes together."""
    panels = []
    for layer, weights in maps.items():
        grid = FeatureGrid.of(weights, layer.axis, image.shape[:2])
        attended = axis_attention(weights, layer.axis, grid.position(query))
        panels.append(AttentionPanel(f"{layer.axis} axis", attended.numpy(), grid.strides))
    if len(maps) == 2:
        height, width = maps.values()
        grid = FeatureGrid.of(height, "height", image.shape[:2])
        attended = block_attention(height, width, grid.position(query))
        panels.append(
            AttentionPanel("height axis, then width axis", attended.numpy(), grid.strides)
        )
    return panels
