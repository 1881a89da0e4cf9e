"""What axial attention computes with: projections, table rows and options, in one tuple.

Shapes: B batch, S sequences of an image (its columns or rows), L length of the attended axis,
h heads, K and V channels of the keys and the values over all heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class AxialInputs(NamedTuple):
    """What `AxialAttention` hands to the function that computes it.

    The maps are slices and transposes of one ``[B, 2K + V, H, W]``, so they have any strides. The
    channels of a head lie together.

    Attributes:
        query: ``[B, K, S, L]``, float32, float64, bfloat16 or float16.
        key: ``[B, K, S, L]``.
        value: ``[B, V, S, L]``; None if the content is not retrieved.
        query_rows: ``[span, K / h]``, the rows rq of the offsets -(span // 2) .. span // 2, shared
            by the heads; None without the term q . rq.
        key_rows: ``[span, K / h]``, the rows rk; None without the term k . rk.
        value_rows: ``[span, V / h]``, the rows rv; None if the position is not retrieved.
        span: odd, 1..2L - 1. Query i sees the keys j with |j - i| <= span // 2 that exist.
        heads: h.
        uses_content: whether q . k is a term of the logits.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    query_rows: Tensor | None
    key_rows: Tensor | None
    value_rows: Tensor | None
    span: int
    heads: int
    uses_content: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The six tensors, in their order."""
        return self[:6]

    @property
    def depths(self) -> tuple[int, int]:
        """Channels of a head's keys and values, K / h and V / h."""
        if self.value is not None:
            value_depth = self.value.shape[1] // self.heads
        else:
            value_depth = 0 if self.value_rows is None else self.value_rows.shape[1]
        return self.key.shape[1] // self.heads, value_depth

    @property
    def retrieved_channels(self) -> int:
        """Channels of the output: of the content, of the position, or of both."""
        content = 0 if self.value is None else self.value.shape[1]
        position = 0 if self.value_rows is None else self.value_rows.shape[1] * self.heads
        return content + position


# The same for an operator of the library, which takes no tuples.
AXIAL_INPUTS_SCHEMA = (
    "Tensor query, Tensor key, Tensor? value, Tensor? query_rows, Tensor? key_rows, "
    "Tensor? value_rows, SymInt span, SymInt heads, bool uses_content"
)


def empty_like(x: Tensor, channels: int | None = None) -> Tensor:
    """Memory for ``[B, channels, S, L]``, dense, its dimensions in the order of x's."""
    order = sorted(range(4), key=x.stride, reverse=True)
    shape = (x.shape[0], x.shape[1] if channels is None else channels, *x.shape[2:])
    return torch.empty_permuted(shape, order, dtype=x.dtype, device=x.device)


def empty_gradients(inputs: AxialInputs, scales: Tensor) -> list[Tensor]:
    """Memory for the gradients of the tensors that are there, in their order, then the scales'."""
    maps = [empty_like(x) for x in inputs[:3] if x is not None]
    others = (*inputs[3:6], scales)
    return [*maps, *(torch.empty_like(x) for x in others if x is not None)]
