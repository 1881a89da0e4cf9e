"""Self-attention in a window around each position, without and with position-sensitive terms.

Sources: Ramachandran et al. 2019, "Stand-Alone Self-Attention in Vision Models" (arXiv 1906.05909),
sec. 3.1 and 3.2; Wang et al. 2020, "Axial-DeepLab" (arXiv 2003.07853), sec. 3.1, eq. 2 and 3. For
query position p and the offsets o of a window of k x k positions with p in the middle

    stand-alone         logits[p, o] = q_p . k_{p+o} + q_p . rq_o
                        y_p          = sum_o w[p, o] v_{p+o}
    position-sensitive  logits[p, o] = BN(q_p . k_{p+o}) + BN(q_p . rq_o) + BN(k_{p+o} . rk_o)
                        y_p          = BN(sum_o w[p, o] v_{p+o}) + BN(sum_o w[p, o] rv_o)

with w = softmax over the offsets. The first half of the channels of a table row r_o belongs to the
offset in height, the other half to that in width. Neither form has a 1/sqrt(d).

Border: neither paper says what a window holds beyond the image, and code of the authors was never
published. Here these positions do not exist, as in our axial attention: neither the softmax nor the
statistics of a batch norm count them. Unofficial code pads keys and values with zeros, which takes
weight away from the image.

Memory: a k x k-fold copy of the keys is never in memory as a whole. Some rows of the image are
computed at a time, and the backward pass computes them again.

Shapes: B batch, H height, W width, C channels, h heads, d and e channels of a head's keys and
values, K = h d, V = h e; k side of the window, R rows of a chunk; T similarity terms and T'
retrieved terms.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from axialseg.layers.axial_attention import AxialStriding
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm
from axialseg.layers.full_precision import full_precision, widened
from axialseg.layers.initialization import truncated_normal_
from axialseg.layers.similarity_statistics import Moments, norm_scales, visible_offsets

# Bytes of a k x k-fold copy of a chunk's keys: what is fast, on a GPU enough to keep it busy.
CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}


class WindowAttention(nn.Module):
    """What both forms share; arguments and exceptions as of `LocalAttention`.

    Attributes:
        window: k.
        pair_products: multiply-adds for each pair of a query and a position of its window.
    """

    pair_products: int

    def __init__(
        self,
        key_channels: int,
        value_channels: int,
        stride: int,
        striding: AxialStriding,
        heads: int,
        window: int,
    ) -> None:
        super().__init__()
        if window % 2 == 0:
            raise ValueError(
                f"window must be odd, so that the query is in the middle; got {window}"
            )
        if key_channels % (2 * heads) or value_channels % (2 * heads):
            raise ValueError(
                f"{key_channels} key channels and {value_channels} value channels must make an "
                f"even number of channels for each of {heads} heads: half of them are for the rows"
            )
        if striding not in ("subsample", "average_pool"):
            raise ValueError(f"axial_striding is subsample or average_pool, not {striding!r}")
        self.sizes = (key_channels, key_channels, value_channels)
        self.stride, self.striding = stride, striding
        self.heads, self.window = heads, window

    def split_heads(self, qkv: Tensor) -> list[Tensor]:
        """qkv: ``[B, 2K + V, H, W]`` -> queries, keys and values, ``[B, h, d, H, W]``."""
        return [x.unflatten(1, (self.heads, -1)) for x in qkv.split(self.sizes, dim=1)]

    def strided(self, y: Tensor) -> Tensor:
        """y: ``[B, V, H, W]`` -> ``[B, V, (H-1)//stride+1, (W-1)//stride+1]``."""
        if self.striding == "average_pool" and self.stride > 1:
            return F.avg_pool2d(y, self.stride, ceil_mode=True)
        return y[:, :, :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"heads={self.heads}, window={self.window}, stride={self.stride}"


class LocalAttention(WindowAttention):
    """Multi-head stand-alone self-attention in a window, then a batch norm and a stride.

    The table is shared by the heads. The batch norm is that of the 3x3 convolution in whose place
    the layer stands.

    Args:
        in_channels: C.
        key_channels: K.
        value_channels: V, and channels of the output.
        stride: 1 or 2.
        striding: "average_pool" takes means of 2 x 2 positions, at an odd border of those that
            exist (Ramachandran et al.); "subsample" keeps every second position.
        heads: h.
        window: k, odd.

    Raises:
        ValueError: for an even window, an unknown striding, or if a head does not get an even
            number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        stride: int = 1,
        striding: AxialStriding = "average_pool",
        heads: int = 8,
        window: int = 7,
    ) -> None:
        super().__init__(key_channels, value_channels, stride, striding, heads, window)
        # Not a convolution without a bias: in this project such a one has a norm behind it.
        self.qkv = nn.Linear(in_channels, 2 * key_channels + value_channels, bias=False)
        truncated_normal_(self.qkv.weight, in_channels**-0.5)
        self.query_table = WindowTable(window, key_channels // heads)
        self.norm = BatchNorm(value_channels)
        self.pair_products = 2 * key_channels + value_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, (H-1)//stride+1, (W-1)//stride+1]``."""
        qkv = self.qkv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        query, key, value = self.split_heads(qkv)
        inputs = LocalInputs(query, key, value, self.query_table(), None, None)
        scales = self.norm.weight.new_ones(2, self.heads)
        return self.strided(self.norm(local_attention(inputs, scales)))


class PositionSensitiveLocalAttention(WindowAttention):
    """Multi-head position-sensitive self-attention in a window, and a stride.

    Without `key_position` and `value_position` it is stand-alone self-attention with batch norms.

    Args:
        in_channels: C.
        key_channels: K.
        value_channels: V, and channels of the output.
        stride: 1 or 2.
        striding: see `LocalAttention`.
        heads: h.
        window: k, odd.
        key_position: use k . rk in the logits.
        value_position: retrieve the values' position terms rv.

    Raises:
        ValueError: as `LocalAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        stride: int = 1,
        striding: AxialStriding = "average_pool",
        heads: int = 8,
        window: int = 7,
        key_position: bool = True,
        value_position: bool = True,
    ) -> None:
        super().__init__(key_channels, value_channels, stride, striding, heads, window)
        self.qkv = ConvNorm(in_channels, 2 * key_channels + value_channels)
        truncated_normal_(self.qkv.conv.weight, in_channels**-0.5)
        key_depth, value_depth = key_channels // heads, value_channels // heads
        self.query_table = WindowTable(window, key_depth)
        self.key_table = WindowTable(window, key_depth) if key_position else None
        self.value_table = WindowTable(window, value_depth) if value_position else None
        # One set of statistics per (similarity term, head) and per (retrieved term, channel).
        similarities, retrievals = 2 + key_position, 1 + value_position
        self.similarity_norm = BatchNorm(similarities * heads)
        self.retrieval_norm = BatchNorm(retrievals * value_channels)
        self.pair_products = similarities * key_channels + retrievals * value_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, (H-1)//stride+1, (W-1)//stride+1]``."""
        query, key, value = self.split_heads(self.qkv(x))
        key_rows, value_rows = (
            None if table is None else table() for table in (self.key_table, self.value_table)
        )
        inputs = LocalInputs(query, key, value, self.query_table(), key_rows, value_rows)
        with full_precision(x):
            moments = local_moments(inputs) if self.training else []
            scales = norm_scales(self.similarity_norm, self.heads, moments)
        y = self.retrieval_norm(local_attention(inputs, scales))
        if value_rows is not None:
            content, position = y.chunk(2, dim=1)
            y = content + position
        return self.strided(y)


class WindowTable(nn.Module):
    """Learnt vectors for the offsets of a window: one half for the row, one for the column.

    Args:
        window: k.
        depth: channels of a vector, even.
    """

    def __init__(self, window: int, depth: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(truncated_normal_(torch.empty(window, depth // 2), 1.0))
        self.columns = nn.Parameter(truncated_normal_(torch.empty(window, depth // 2), 1.0))

    def forward(self) -> Tensor:
        """The vector of each offset, ``[k, k, depth]``."""
        shape = (len(self.rows), len(self.columns), -1)
        return torch.cat((self.rows[:, None].expand(shape), self.columns.expand(shape)), dim=2)


class LocalInputs(NamedTuple):
    """What attention in a window computes with.

    Attributes:
        query: ``[B, h, d, H, W]``, float32, float64, bfloat16 or float16.
        key: the same.
        value: ``[B, h, e, H, W]``.
        query_rows: ``[k, k, d]``, the vectors rq.
        key_rows: ``[k, k, d]``, the vectors rk; None without the term k . rk.
        value_rows: ``[k, k, e]``, the vectors rv; None if the position is not retrieved.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_rows: Tensor
    key_rows: Tensor | None
    value_rows: Tensor | None


def local_attention(inputs: LocalInputs, scales: Tensor) -> Tensor:
    """Softmax attention in a window with scaled similarity terms.

    Args:
        inputs: half precision is computed in float32.
        scales: ``[T, h]``, for q . k, q . rq and k . rk, of those that are there.

    Returns:
        ``[B, T' V, H, W]`` in the dtype of the query, content before position.
    """
    with full_precision(inputs.query):
        chunks = [_recomputed(_attend, *chunk, scales) for chunk in _chunks(inputs)]
    # [B, T', h, e, H, W]
    return torch.cat(chunks, dim=-2).flatten(1, 3)


def local_moments(inputs: LocalInputs) -> list[Moments]:
    """Of each similarity term, over all pairs of a query and a position in its window."""
    query, key = (widened(x.detach()).mean((0, 3, 4)) for x in (inputs.query, inputs.key))
    rows = [r.detach().mean((0, 1)) for r in (inputs.query_rows, inputs.key_rows) if r is not None]
    centers = torch.stack([(query * key).sum(1), query @ rows[0], *(key @ r for r in rows[1:])])
    sums = torch.stack([_recomputed(_sums, *chunk, centers) for chunk in _chunks(inputs)]).sum(0)
    batch, heads, _, *size = inputs.query.shape
    in_sight = [visible_offsets(n, len(inputs.query_rows), centers).sum() for n in size]
    pairs = (batch * in_sight[0].double() * in_sight[1]).expand(heads)
    return [Moments(pairs, center, *both) for center, both in zip(centers, sums, strict=True)]


def _recomputed(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """The result of a function of which the backward pass keeps the arguments only."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def _chunks(inputs: LocalInputs) -> Iterator[tuple[LocalInputs, Tensor]]:
    """Some rows of queries, with all rows of keys and values in their windows.

    Yields:
        The inputs, with `query` ``[B, h, d, R, W]`` and `key` and `value`
        ``[B, h, ., R + k - 1, W + k - 1]``, views, 0 beyond the image; and bool ``[k, k, R, W]``,
        whether a position exists.
    """
    query, window = inputs.query, len(inputs.query_rows)
    height, width = query.shape[-2:]
    reach = window // 2
    key, value = (F.pad(x, (reach, reach, reach, reach)) for x in (inputs.key, inputs.value))
    row_visible, column_visible = (
        visible_offsets(n, window, query).bool() for n in (height, width)
    )
    visible = row_visible.t()[:, None, :, None] & column_visible.t()[None, :, None, :]
    if torch.compiler.is_exporting():  # the graph must fit images of any height
        yield inputs._replace(key=key, value=value), visible
        return
    copied = window**2 * max(key[:, :, :, 0].numel(), value[:, :, :, 0].numel())
    budget = CHUNK_BYTES.get(query.device.type, CHUNK_BYTES["cuda"])
    itemsize = torch.promote_types(query.dtype, torch.float32).itemsize
    rows = max(1, budget // (copied * itemsize))
    for first in range(0, height, rows):
        some = slice(first, min(first + rows, height))
        halo = slice(first, some.stop + 2 * reach)
        parts = (query[..., some, :], key[..., halo, :], value[..., halo, :])
        yield inputs._replace(query=parts[0], key=parts[1], value=parts[2]), visible[:, :, some]


def _windows(x: Tensor, window: int) -> Tensor:
    """x: ``[..., R + k - 1, W + k - 1]`` -> ``[k, k, ..., R, W]``, a view."""
    if torch.compiler.is_exporting():  # which would fix the size of the image
        rows, columns = (n - window + 1 for n in x.shape[-2:])
        places = [(i, j) for i in range(window) for j in range(window)]
        copies = [x[..., i : i + rows, j : j + columns] for i, j in places]
        return torch.stack(copies).unflatten(0, (window, window))
    return x.unfold(-2, window, 1).unfold(-2, window, 1).movedim((-2, -1), (0, 1))


def _similarities(chunk: LocalInputs) -> list[Tensor]:
    """The terms of a chunk's logits, each ``[k, k, B, h, R, W]``."""
    query, key = widened(chunk.query), _windows(widened(chunk.key), len(chunk.query_rows))
    by_query = torch.einsum("bhdyx,ijd->ijbhyx", query, widened(chunk.query_rows))
    terms = [(query * key).sum(-3), by_query]
    if chunk.key_rows is not None:
        terms.append((widened(chunk.key_rows)[:, :, None, None, :, None, None] * key).sum(-3))
    return terms


def _sums(chunk: LocalInputs, visible: Tensor, centers: Tensor) -> Tensor:
    """Sums of x - center and of its square, ``[T, 2, h]`` in float64.

    Args:
        chunk: see `_chunks`.
        visible: see `_chunks`.
        centers: ``[T, h]``.
    """
    sums = []
    for term, center in zip(_similarities(chunk), centers, strict=True):
        x = (term - center[:, None, None]) * visible[:, :, None, None]
        sums += [x.sum((0, 1, 2, 4, 5), dtype=torch.float64) for x in (x, x.square())]
    return torch.stack(sums).view(len(centers), 2, -1)


def _attend(chunk: LocalInputs, visible: Tensor, scales: Tensor) -> Tensor:
    """The output of a chunk, ``[B, T', h, e, R, W]``; arguments as of `_sums`."""
    terms = zip(_similarities(chunk), scales, strict=True)
    logits = torch.where(visible, 0.0, -torch.inf).to(scales.dtype)[:, :, None, None]
    for term, scale in terms:
        logits = logits + term * scale[:, None, None]
    weights = logits.flatten(0, 1).softmax(0).unflatten(0, visible.shape[:2])
    values = _windows(widened(chunk.value), len(chunk.query_rows))
    retrieved = [(weights[:, :, :, :, None] * values).sum((0, 1))]
    if chunk.value_rows is not None:
        rows = widened(chunk.value_rows)
        retrieved.append(torch.einsum("ijbhyx,ijd->bhdyx", weights, rows))
    return torch.stack(retrieved, dim=1).to(chunk.query.dtype)
