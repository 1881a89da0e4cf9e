"""Position-sensitive axial attention: self-attention along one image axis.

Source: Wang et al. 2020, "Axial-DeepLab" (arXiv 2003.07853), sec. 3.2, eq. 3 and 4.
Checked against: deeplab2 ``model/layers/axial_layers.py``. Difference: a local span, which deeplab2
leaves unimplemented.

    logits[l, m] = BN(q_l . k_m) + BN(q_l . rq_{m-l}) + BN(k_m . rk_{m-l})
    y_l          = BN(sum_m w[l, m] v_m) + BN(sum_m w[l, m] rv_{m-l}),   w = softmax_m(logits)

There is no 1/sqrt(d) scaling: the batch norms replace it.

Shapes: B batch, H height, W width, C channels, N sequences (all positions off the attended axis),
L length of the attended axis, S positions in a query's window, h heads, K and V channels of all
heads' keys and values.
"""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm
from axialseg.layers.initialization import truncated_normal_

MAX_OFFSET = 254  # deeplab2's tables have 2 * 254 + 1 = 509 rows, independent of the image size.


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
        batch, _, height, width = x.shape
        length, others = (height, width) if self.axis == "height" else (width, height)
        query, key, value = self._project(x)
        if self.span is None or self.span >= 2 * length - 1:
            retrieved = self._attend_globally(query, key, value)
        else:
            retrieved = self._attend_locally(query, key, value, self.span)
        y = self.retrieval_norm(torch.cat([r.flatten(1, 2) for r in retrieved], dim=1))
        if len(retrieved) == 2:
            content, position = y.chunk(2, dim=1)
            y = content + position  # [N, V, L]
        y = y.unflatten(0, (batch, others))  # [B, W or H, V, L]
        return y.permute((0, 2, 3, 1) if self.axis == "height" else (0, 2, 1, 3))

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> Tensor:
        """The softmax weights for an input, for inspection; the layer is in evaluation mode.

        Args:
            x: ``[B, C, H, W]``.

        Returns:
            ``[N, h, L, L]``: sequence, head, query position, key position, N = B * W columns (axis
            height) or B * H rows (axis width), image by image. 0 beyond a query's span.
        """
        query, key, _ = self._project(x)
        length = query.shape[-1]
        if self.span is None or self.span >= 2 * length - 1:
            return self._global_weights(query, key, _offsets(query))
        local = self._local_weights(query, key, self.span)  # [N, h, L, S]
        reach = (self.span - 1) // 2
        window = torch.arange(self.span, device=x.device)
        position = torch.arange(length, device=x.device)[:, None] + window  # reach + key position
        weights = local.new_zeros(*local.shape[:-1], length + 2 * reach)
        weights.scatter_(-1, position.expand_as(local), local)
        return weights[..., reach : reach + length]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: ``[B, C, H, W]`` -> query, key and value of all sequences, each ``[N, h, d, L]``."""
        to_sequences = (0, 3, 1, 2) if self.axis == "height" else (0, 2, 1, 3)
        qkv = self.qkv(x).permute(to_sequences).flatten(0, 1)  # [N, 2K + V, L]
        sizes = [self.key_channels, self.key_channels, self.value_channels]
        query, key, value = (
            part.unflatten(1, (self.heads, -1)) for part in qkv.split(sizes, dim=1)
        )
        return query, key, value

    def _attend_globally(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Every query sees the whole axis. Returns the retrieved terms, each ``[N, h, d, L]``."""
        offsets = _offsets(query)
        weights = self._global_weights(query, key, offsets)
        retrieved = []
        if self.value_content:
            retrieved.append(value @ weights.transpose(-1, -2))
        if self.value_table is not None:
            rows = self._rows(self.value_table, offsets)
            retrieved.append(torch.einsum("nhlm,lmd->nhdl", weights, rows))
        return retrieved

    def _global_weights(self, query: Tensor, key: Tensor, offsets: Tensor) -> Tensor:
        """Weights ``[N, h, L, L]`` where every query sees the whole axis; offsets ``[L, L]``."""
        terms = []
        if self.content_similarity:
            terms.append(query.transpose(-1, -2) @ key)
        if self.query_table is not None:
            rows = self._rows(self.query_table, offsets)
            terms.append(torch.einsum("nhdl,lmd->nhlm", query, rows))
        if self.key_table is not None:
            terms.append(torch.einsum("nhdm,lmd->nhlm", key, self._rows(self.key_table, offsets)))
        return self._softmax(terms, None)

    def _attend_locally(self, query: Tensor, key: Tensor, value: Tensor, span: int) -> list[Tensor]:
        """A query sees `span` positions. Returns the retrieved terms, each ``[N, h, d, L]``."""
        reach = (span - 1) // 2
        weights = self._local_weights(query, key, span)
        retrieved = []
        if self.value_content:
            values = F.pad(value, (reach, reach)).unfold(-1, span, 1)
            retrieved.append(torch.einsum("nhls,nhdls->nhdl", weights, values))
        if self.value_table is not None:
            offsets = torch.arange(-reach, reach + 1, device=query.device)
            rows = self._rows(self.value_table, offsets)
            retrieved.append(torch.einsum("nhls,sd->nhdl", weights, rows))
        return retrieved

    def _local_weights(self, query: Tensor, key: Tensor, span: int) -> Tensor:
        """Weights ``[N, h, L, S]`` where a query sees `span` positions."""
        length, reach = query.shape[-1], (span - 1) // 2
        offsets = torch.arange(-reach, reach + 1, device=query.device)  # [S]
        position = torch.arange(length, device=query.device)[:, None] + offsets
        inside = (position >= 0) & (position < length)  # [L, S]
        keys = F.pad(key, (reach, reach)).unfold(-1, span, 1)  # [N, h, d, L, S], a view
        terms = []
        if self.content_similarity:
            terms.append(torch.einsum("nhdl,nhdls->nhls", query, keys))
        if self.query_table is not None:
            rows = self._rows(self.query_table, offsets)
            terms.append(torch.einsum("nhdl,sd->nhls", query, rows))
        if self.key_table is not None:
            terms.append(torch.einsum("nhdls,sd->nhls", keys, self._rows(self.key_table, offsets)))
        return self._softmax(terms, inside)

    def _rows(self, table: Tensor, offsets: Tensor) -> Tensor:
        """Table rows ``[..., d]`` of integer offsets ``[...]``."""
        return table[offsets.clamp(-self.max_offset, self.max_offset) + self.max_offset]

    def _softmax(self, terms: list[Tensor], inside: Tensor | None) -> Tensor:
        """Normalises and adds the similarity terms, each ``[N, h, L, S]`` -> weights like them."""
        normalised = self.similarity_norm(torch.cat(terms, dim=1), inside)
        logits = normalised.unflatten(1, (len(terms), self.heads)).sum(1)
        if inside is not None:
            logits = logits.masked_fill(~inside, -torch.inf)
        return logits.softmax(-1)


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
    """Height-axis attention, then width-axis attention, with subsampling after each axis.

    Source: deeplab2 ``AxialAttention2D``. With stride 2 every second row is kept after the height
    axis and every second column after the width axis (the paper's multiply-adds fit this order).

    Args:
        attention: makes the layer of one axis.
        in_channels: channels of the input.
        key_channels: K of both axes.
        value_channels: V of both axes, channels of the output.
        stride: 1 or 2.
    """

    def __init__(
        self,
        attention: AttentionFactory,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.height_axis = attention(in_channels, key_channels, value_channels, axis="height")
        self.width_axis = attention(value_channels, key_channels, value_channels, axis="width")

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, (H-1)//stride+1, (W-1)//stride+1]``."""
        x = self.height_axis(x)[:, :, :: self.stride]
        return self.width_axis(x)[:, :, :, :: self.stride]


def _offsets(query: Tensor) -> Tensor:
    """Key position - query position, int ``[L, L]``, for queries ``[N, h, d, L]``."""
    positions = torch.arange(query.shape[-1], device=query.device)
    return positions - positions[:, None]


def _position_table(rows: int, depth: int) -> nn.Parameter:
    return nn.Parameter(truncated_normal_(torch.empty(rows, depth), 1.0))
