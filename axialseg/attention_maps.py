"""What a network's axial attention looks at.

    with record_attention(net) as maps:
        net(image)
    maps["backbone.stages.stage4.1.branch.attention.height_axis"]  # [N, h, L, L]

Shapes: H, W feature map, N sequences (columns or rows of all images), h heads, L axis length.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from axialseg.layers.axial_attention import AxialAttention


@contextmanager
def record_attention(
    net: nn.Module, layers: Collection[str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collects the attention weights of forward passes inside the context.

    They are computed beside the layers' own work, by the reference formulation, whatever
    formulation a layer uses itself; outside the context nothing is left behind. Compiled networks
    run eagerly inside it.

    Args:
        net: in evaluation mode, compiled or not.
        layers: names of the layers to record, see `axial_layers`; None for all. Mind the memory:
            at stride 4 of a 1025x2049 image one layer's weights are 1 GB.

    Yields:
        Layer name -> weights ``[N, h, L, L]`` of the latest forward pass, see
        `AxialAttention.attention_weights`.

    Raises:
        ValueError: the network is in training mode (looking would move batch-norm statistics), or
            has no such layer.
    """
    there_are = axial_layers(net)
    chosen = there_are if layers is None else {name: there_are.get(name) for name in layers}
    maps: dict[str, Tensor] = {}
    handles = []
    try:
        for name, layer in chosen.items():
            if layer is None:
                raise ValueError(f"the network has no axial attention layer {name}")
            if layer.training:
                raise ValueError("attention is recorded in evaluation mode only; call net.eval()")
            handles.append(layer.register_forward_pre_hook(_recorder(name, maps)))
        with torch.compiler.set_stance("force_eager"):  # compiled code does not see new hooks
            yield maps
    finally:
        for handle in handles:
            handle.remove()


def axial_layers(net: nn.Module) -> dict[str, AxialAttention]:
    """The axial attention layers by their names, in the order of `net.named_modules()`."""
    return {
        name.replace("_orig_mod.", ""): layer  # which torch.compile puts into names
        for name, layer in net.named_modules()
        if isinstance(layer, AxialAttention)
    }


def column_attention(weights: Tensor, query: tuple[int, int]) -> Tensor:
    """Attention of one position along its column.

    Args:
        weights: of a height-axis layer for one image, ``[W, h, H, H]``.
        query: (row, column).

    Returns:
        ``[H]``, mean over the heads; it sums to 1.
    """
    row, column = query
    return weights[column, :, row].mean(0)


def row_attention(weights: Tensor, query: tuple[int, int]) -> Tensor:
    """Attention of one position along its row.

    Args:
        weights: of a width-axis layer for one image, ``[H, h, W, W]``.
        query: (row, column).

    Returns:
        ``[W]``, mean over the heads; it sums to 1.
    """
    row, column = query
    return weights[row, :, column].mean(0)


def block_attention(height: Tensor, width: Tensor, query: tuple[int, int]) -> Tensor:
    """Attention of one position over the whole map, through both axes of a block.

    A position of the output takes from its row what each position there has taken from its column:
    map[y, x] = row attention[x] * attention of (query's row, x) in column x to y.

    Args:
        height: weights of the height-axis layer for one image, ``[W, h, H, H]``.
        width: weights of the width-axis layer after it, ``[H', h, W, W]``, H' = H or, with stride,
            ceil(H / 2).
        query: (row, column) of the height-axis layer; with stride 2 an odd row means the one above.

    Returns:
        ``[H, W]``, means over the heads of each axis; it sums to 1.
    """
    row, column = query
    stride = -(-height.shape[-1] // width.shape[0])
    kept_row = row // stride
    along_row = row_attention(width, (kept_row, column))  # [W]
    along_columns = height[:, :, kept_row * stride].mean(1)  # [W, H]
    return (along_row[:, None] * along_columns).T


def _recorder(name: str, maps: dict[str, Tensor]) -> Callable[[nn.Module, Any], None]:
    def record(layer: nn.Module, inputs: Any) -> None:
        assert isinstance(layer, AxialAttention)
        maps[name] = layer.attention_weights(inputs[0])

    return record
