"""The weights of the axial attention of a network, for inspection.

    with record_attention(net) as maps:
        net(image)
    maps["backbone.stages.stage4.1.branch.attention.height_axis"]  # [N, h, L, L]

Shapes: H, W feature map, N sequences (columns or rows of all images), h heads, L axis length.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from axialseg.layers.axial_attention import AxialAttention

Axis = Literal["height", "width"]


@contextmanager
def record_attention(
    net: nn.Module, layers: Collection[str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collects the attention weights of forward passes inside the context.

    The reference formulation computes them beside the layers' own work, also for layers that use
    another formulation. After the context the network is as before. Inside it, compiled networks
    run eagerly.

    Args:
        net: in evaluation mode, compiled or not.
        layers: names of the layers to record, see `axial_layers`; None for all. Mind the memory:
            at stride 4 of a 1025x2049 image one layer's weights are 1 GB.

    Yields:
        Layer name -> weights ``[N, h, L, L]`` of the latest forward pass, see
        `AxialAttention.attention_weights`.

    Raises:
        ValueError: the network is in training mode (it would move batch-norm statistics), or
            has no such layer.
    """
    known = axial_layers(net)
    chosen = known if layers is None else {name: known.get(name) for name in layers}
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


class FeatureGrid(NamedTuple):
    """Where the positions of a feature map lie on the image.

    Attributes:
        size: (rows, columns) of the feature map.
        strides: pixels from one position to the next, vertically and horizontally; position i lies
            on pixel i * stride, as aligned corners have it.
    """

    size: tuple[int, int]
    strides: tuple[int, int]

    @classmethod
    def of(cls, weights: Tensor, axis: Axis, image_size: tuple[int, ...]) -> "FeatureGrid":
        """The grid of a layer's output.

        Args:
            weights: of the layer for one image, ``[N, h, L, L]``.
            axis: of the layer.
            image_size: (height, width) of the image.
        """
        sequences, _, length, _ = weights.shape
        rows, columns = (length, sequences) if axis == "height" else (sequences, length)
        height, width = image_size
        return cls((rows, columns), (_stride(height, rows), _stride(width, columns)))

    def position(self, pixel: tuple[int, int]) -> tuple[int, int]:
        """The (row, column) next to a pixel (y, x)."""
        row, column = (
            min((at + stride // 2) // stride, count - 1)
            for at, stride, count in zip(pixel, self.strides, self.size, strict=True)
        )
        return row, column


def axis_attention(weights: Tensor, axis: Axis, query: tuple[int, int]) -> Tensor:
    """Attention of one position in one layer.

    Args:
        weights: of the layer for one image, ``[N, h, L, L]``.
        axis: of the layer.
        query: (row, column).

    Returns:
        ``[H, W]``, mean of the heads, NaN off the query's column (axis height) or row (axis width);
        it sums to 1 there.
    """
    if axis == "width":
        return axis_attention(weights, "height", query[::-1]).T
    row, column = query
    attended = weights.new_full((weights.shape[-1], weights.shape[0]), torch.nan)
    attended[:, column] = weights[column, :, row].mean(0)
    return attended


def block_attention(height: Tensor, width: Tensor, query: tuple[int, int]) -> Tensor:
    """Attention of one position over the whole map, through both axes of a block.

    A position of the output takes from its row what each position there has taken from its column:
    map[y, x] = weight of (row, x) for the query * weight of (y, x) for (row, x).

    Args:
        height: weights of the height-axis layer for one image, ``[W, h, H, H]``.
        width: weights of the width-axis layer after it, ``[H', h, W, W]``, H' = H or, with stride,
            ceil(H / 2).
        query: (row, column) of the height-axis layer; with stride 2 an odd row means the one above.

    Returns:
        ``[H, W]``, from the means of each axis's heads; it sums to 1.
    """
    row, column = query
    stride = -(-height.shape[-1] // width.shape[0])
    kept_row = row // stride
    along_row = width[kept_row, :, column].mean(0)  # [W]
    along_columns = height[:, :, kept_row * stride].mean(1)  # [W, H]
    return (along_row[:, None] * along_columns).T


def _stride(pixels: int, positions: int) -> int:
    """The power of two at which so many positions are left of so many pixels."""
    stride = 1
    while (pixels - 1) // stride + 1 > positions:
        stride *= 2
    return stride


def _recorder(name: str, maps: dict[str, Tensor]) -> Callable[[nn.Module, Any], None]:
    def record(layer: nn.Module, inputs: Any) -> None:
        assert isinstance(layer, AxialAttention)
        maps[name] = layer.attention_weights(inputs[0])

    return record
