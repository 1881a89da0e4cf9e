"""Position-sensitive axial attention: self-attention along one image axis.

Source: Wang et al. 2020, "Axial-DeepLab" (arXiv 2003.07853), sec. 3.2, eq. 3 and 4.
Checked against: deeplab2 ``model/layers/axial_layers.py``. Difference: a local span, which deeplab2
leaves unimplemented.

    logits[l, m] = BN(q_l . k_m) + BN(q_l . rq_{m-l}) + BN(k_m . rk_{m-l})
    y_l          = BN(sum_m w[l, m] v_m) + BN(sum_m w[l, m] rv_{m-l}),   w = softmax_m(logits)

There is no 1/sqrt(d) scaling: the batch norms replace it.

Span: with a span of m, query l sees the positions l - (m - 1) / 2 .. l + (m - 1) / 2 of the axis.
Positions beyond the border do not exist: neither the softmax nor the statistics of the batch norm
count them. So m >= 2L - 1 is exactly global attention. The axis is cut into blocks of queries with
the keys in their reach. Memory grows with L * m and not with L * L.

Resolution: the tables have the same number of rows for every image, and the row of an offset does
not depend on the length of the axis. A larger image uses more rows around the middle. Offsets
beyond the table share its first or last row.

Shapes: B batch, H height, W width, C channels, N sequences (all positions off the attended axis),
L length of the attended axis, h heads, d channels of a head, K and V channels of all heads' keys
and values; b blocks, q queries and k keys of a block.
"""

from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.axial_inputs import AxialInputs
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm
from axialseg.layers.initialization import truncated_normal_
from axialseg.layers.lean_axial_attention import lean_attention

AxialStriding = Literal["subsample", "average_pool"]
MAX_OFFSET = 254  # deeplab2's tables have 2 * 254 + 1 = 509 rows, independent of the image size.


class _Blocks(NamedTuple):
    """How an axis is cut into blocks, so that only the pairs that a span needs are in memory.

    A block is some neighbouring queries and all keys that any of them sees. Two neighbouring
    blocks share keys but no query. The last block may have surplus queries beyond the axis.

    Attributes:
        number: b, of blocks; 1 where every query sees the whole axis.
        queries: q, queries of a block.
        reach: positions beyond its queries, on each side, whose keys belong to a block.
        offsets: key position - query position, int ``[q, k]`` with k = q + 2 * reach.
        visible: bool ``[b, q, k]``, whether both positions exist and the key is within the span;
            None means everywhere.
    """

    number: int
    queries: int
    reach: int
    offsets: Tensor
    visible: Tensor | None

    def split(self, x: Tensor) -> Tensor:
        """x: ``[..., L]`` -> ``[..., b, q]``; surplus queries are 0."""
        surplus = self.number * self.queries - x.shape[-1]
        return F.pad(x, (0, surplus)).unflatten(-1, (self.number, self.queries))

    def keys(self, x: Tensor) -> Tensor:
        """x: ``[..., L]`` -> ``[..., b, k]``, a view; what does not exist is 0."""
        surplus = self.number * self.queries - x.shape[-1]
        padded = F.pad(x, (self.reach, self.reach + surplus))
        return padded.unfold(-1, self.queries + 2 * self.reach, self.queries)

    def rows(self, rows: Tensor) -> Tensor:
        """rows: ``[span, d]`` -> ``[q, k, d]``; pairs out of sight get any row."""
        reach = len(rows) // 2
        return rows[self.offsets.clamp(-reach, reach) + reach]


def _blocks(length: int, span: int, device: torch.device) -> _Blocks:
    """The blocks of an axis of `length` positions, of which a query sees `span`."""
    if span >= 2 * length - 1:
        return _Blocks(1, length, 0, _offsets(length, 0, device), None)
    reach = (span - 1) // 2
    # Blocks of about `reach` queries hold 3 * reach keys. If that is the whole axis, one will do.
    count = -(-length // max(reach, 1)) if length > 3 * reach else 1
    queries = -(-length // count)
    margin = reach if count > 1 else 0
    offsets = _offsets(queries, margin, device)
    query = torch.arange(count * queries, device=device).view(count, queries, 1)
    key = query + offsets
    visible = (offsets.abs() <= reach) & (query < length) & (key >= 0) & (key < length)
    return _Blocks(count, queries, margin, offsets, visible)


def _offsets(queries: int, margin: int, device: torch.device) -> Tensor:
    """Key position - query position of a block, int ``[q, q + 2 * margin]``."""
    key = torch.arange(-margin, queries + margin, device=device)
    return key - torch.arange(queries, device=device)[:, None]


class Formulation(Protocol):
    """How the layer is computed between its projection and its last batch norm."""

    def __call__(self, inputs: AxialInputs, norm: BatchNorm) -> Tensor:
        """Attends along the last axis of each sequence.

        Args:
            inputs: of the layer.
            norm: of the similarity terms, h channels each: content, query position, key position,
                without those that are left out. In training its running statistics move.

        Returns:
            ``[B, T' V, S, L]``: the T' terms that are retrieved, content before position.
        """
        ...


class AxialAttention(nn.Module):
    """Multi-head position-sensitive attention along the height or the width of a feature map.

    Relative position tables are shared by the heads. Row ``offset + max_offset`` belongs to the
    offset key position - query position; offsets beyond the table take its first or last row.

    Args:
        in_channels: channels of the input.
        key_channels: K, channels of the queries and of the keys over all heads.
        value_channels: V, channels of the values over all heads, and of the output.
        axis: attended axis.
        heads: h; divides K and V.
        span: odd number of positions that a query sees, itself in the middle; None for all.
            Positions beyond the border do not exist: they are left out of the softmax and of the
            batch norm's statistics.
        max_offset: largest offset with a table row of its own.
        content_similarity: use q . k in the logits.
        query_position: use q . rq in the logits.
        key_position: use k . rk in the logits.
        value_content: retrieve the values.
        value_position: retrieve the values' position terms rv.
        formulation: how it is computed; `lean_attention` or `reference_attention`.

    Raises:
        ValueError: if `span` is even, heads do not divide the channels, or no term is left.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        axis: Literal["height", "width"],
        heads: int = 8,
        span: int | None = None,
        max_offset: int = MAX_OFFSET,
        content_similarity: bool = True,
        query_position: bool = True,
        key_position: bool = True,
        value_content: bool = True,
        value_position: bool = True,
        formulation: Formulation = lean_attention,
    ) -> None:
        super().__init__()
        if span is not None and span % 2 == 0:
            raise ValueError(f"span must be odd, so that the query is in the middle; got {span}")
        if key_channels % heads or value_channels % heads:
            raise ValueError(
                f"{heads} heads do not divide {key_channels} key channels and {value_channels} "
                "value channels"
            )
        similarities = content_similarity + query_position + key_position
        if not similarities or not value_content + value_position:
            raise ValueError("axial attention needs a similarity term and a retrieved term")
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.axis: Literal["height", "width"] = axis
        self.heads = heads
        self.span = span
        self.max_offset = max_offset
        self.content_similarity = content_similarity
        self.value_content = value_content
        self.formulation = formulation

        self.qkv = ConvNorm(in_channels, 2 * key_channels + value_channels)
        truncated_normal_(self.qkv.conv.weight, in_channels**-0.5)
        rows = 2 * max_offset + 1
        key_depth, value_depth = key_channels // heads, value_channels // heads
        self.query_table = _position_table(rows, key_depth) if query_position else None
        self.key_table = _position_table(rows, key_depth) if key_position else None
        self.value_table = _position_table(rows, value_depth) if value_position else None
        # One set of statistics per (similarity term, head) and per (retrieved term, channel).
        self.similarity_norm = BatchNorm(similarities * heads)
        self.retrieval_norm = BatchNorm((value_content + value_position) * value_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, H, W]``."""
        y = self.formulation(self._inputs(x), self.similarity_norm)
        y = self.retrieval_norm(y.transpose(2, 3) if self.axis == "height" else y)
        if self.value_content and self.value_table is not None:
            content, position = y.chunk(2, dim=1)
            y = content + position
        return y

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> Tensor:
        """The softmax weights for an input, for inspection; the layer is in evaluation mode.

        Args:
            x: ``[B, C, H, W]``.

        Returns:
            ``[N, h, L, L]``: sequence, head, query position, key position, N = B * W columns (axis
            height) or B * H rows (axis width), image by image. 0 beyond a query's span.
        """
        inputs = self._inputs(x)
        length = inputs.query.shape[-1]
        blocks = _blocks(length, inputs.span, x.device)
        # [N, h, b * q, k]
        local = reference_weights(inputs, self.similarity_norm, blocks).flatten(2, 3)
        window = torch.arange(local.shape[-1], device=x.device)
        starts = torch.arange(blocks.number, device=x.device) * blocks.queries
        position = starts.repeat_interleave(blocks.queries)[:, None] + window  # reach + key
        weights = local.new_zeros(*local.shape[:-1], local.shape[-2] + 2 * blocks.reach)
        weights.scatter_(-1, position.expand_as(local), local)
        return weights[..., :length, blocks.reach : blocks.reach + length]

    def _inputs(self, x: Tensor) -> AxialInputs:
        """x: ``[B, C, H, W]`` -> the projections, and the rows of the offsets within the span."""
        sizes = [self.key_channels, self.key_channels, self.value_channels]
        parts = self.qkv(x).split(sizes, dim=1)
        if self.axis == "height":
            # After the split, because then the gradients are joined in their order in memory.
            parts = tuple(part.transpose(2, 3) for part in parts)
        query, key, value = parts
        length = query.shape[-1]
        reach = length - 1 if self.span is None else min((self.span - 1) // 2, length - 1)
        offsets = torch.arange(-reach, reach + 1, device=self.similarity_norm.weight.device)
        row = offsets.clamp(-self.max_offset, self.max_offset) + self.max_offset
        tables = (self.query_table, self.key_table, self.value_table)
        query_rows, key_rows, value_rows = (None if t is None else t[row] for t in tables)
        return AxialInputs(
            query,
            key,
            value if self.value_content else None,
            query_rows,
            key_rows,
            value_rows,
            2 * reach + 1,
            self.heads,
            self.content_similarity,
        )


def reference_attention(inputs: AxialInputs, norm: BatchNorm) -> Tensor:
    """A `Formulation`: the formulas at the top as they stand; every pair in sight is in memory."""
    batch, _, _, length = inputs.query.shape
    blocks = _blocks(length, inputs.span, inputs.query.device)
    weights = reference_weights(inputs, norm, blocks)
    retrieved = []
    if inputs.value is not None:
        values = blocks.keys(_sequences(inputs.value, inputs.heads))
        retrieved.append(torch.einsum("nhbij,nhdbj->nhdbi", weights, values))
    if inputs.value_rows is not None:
        rows = blocks.rows(inputs.value_rows)
        retrieved.append(torch.einsum("nhbij,ijd->nhdbi", weights, rows))
    terms = [r.flatten(-2)[..., :length].flatten(1, 2) for r in retrieved]
    y = torch.cat(terms, dim=1)  # [N, T' V, L]
    return y.unflatten(0, (batch, -1)).transpose(1, 2)


def reference_weights(inputs: AxialInputs, norm: BatchNorm, blocks: _Blocks) -> Tensor:
    """Weights ``[N, h, b, q, k]`` of the queries and keys of each block; 0 out of sight."""
    queries = blocks.split(_sequences(inputs.query, inputs.heads))
    keys = blocks.keys(_sequences(inputs.key, inputs.heads))
    terms = []
    if inputs.uses_content:
        terms.append(torch.einsum("nhdbi,nhdbj->nhbij", queries, keys))
    if inputs.query_rows is not None:
        terms.append(torch.einsum("nhdbi,ijd->nhbij", queries, blocks.rows(inputs.query_rows)))
    if inputs.key_rows is not None:
        terms.append(torch.einsum("nhdbj,ijd->nhbij", keys, blocks.rows(inputs.key_rows)))
    normalised = norm(torch.cat(terms, dim=1), blocks.visible)
    logits = normalised.unflatten(1, (len(terms), inputs.heads)).sum(1)
    if blocks.visible is not None:
        # Not -inf: the last block's surplus queries see nothing, and would become NaN.
        logits = logits.masked_fill(~blocks.visible, torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def _sequences(x: Tensor, heads: int) -> Tensor:
    """x: ``[B, C, S, L]`` -> ``[N, h, d, L]``."""
    return x.transpose(1, 2).flatten(0, 1).unflatten(1, (heads, -1))


class AttentionFactory(Protocol):
    """Makes the attention layer of one axis; `AxialAttention` with its options set is one."""

    def __call__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        *,
        axis: Literal["height", "width"],
    ) -> nn.Module:
        """The layer maps ``[B, in_channels, H, W]`` to ``[B, value_channels, H, W]``."""
        ...


class AxialAttention2d(nn.Module):
    """Height-axis attention, then width-axis attention, and a stride.

    Source: deeplab2 ``AxialAttention2D``; csrhddlam/axial-deeplab for "average_pool".

    Args:
        attention: makes the layer of one axis.
        in_channels: channels of the input.
        key_channels: K of both axes.
        value_channels: V of both axes, channels of the output.
        stride: 1 or 2.
        striding: "subsample" keeps every second row after the height axis and every second column
            after the width axis (deeplab2; the paper's multiply-adds fit this order).
            "average_pool" takes means of 2 x 2 positions after both axes (the authors' PyTorch
            code), which costs more; at an odd border, of the positions that exist.

    Raises:
        ValueError: if `striding` is neither.
    """

    def __init__(
        self,
        attention: AttentionFactory,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        stride: int = 1,
        striding: AxialStriding = "subsample",
    ) -> None:
        super().__init__()
        if striding not in ("subsample", "average_pool"):
            raise ValueError(f"axial_striding is subsample or average_pool, not {striding!r}")
        self.stride = stride
        self.striding = striding
        self.height_axis = attention(in_channels, key_channels, value_channels, axis="height")
        self.width_axis = attention(value_channels, key_channels, value_channels, axis="width")

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, (H-1)//stride+1, (W-1)//stride+1]``."""
        if self.striding == "average_pool":
            x = self.width_axis(self.height_axis(x))
            return F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        x = self.height_axis(x)[:, :, :: self.stride]
        return self.width_axis(x)[:, :, :, :: self.stride]


def _position_table(rows: int, depth: int) -> nn.Parameter:
    return nn.Parameter(truncated_normal_(torch.empty(rows, depth), 1.0))
