"""The core of axial attention in chunks: the logits are never in memory as a whole.

The backward pass keeps the inputs only, and computes the weights again. A chunk is some sequences,
of several images where they are small; its queries are taken block by block with all keys in their
reach, so that the logits at hand fit in a cache. Everything is a matrix product, of one of two
layouts:

- by sequence, ``[n, d, L]``: q . k and sum w v;
- by position, ``[L, d, n]``: q . rq and sum w rv, a product for each query with the table rows of
  all its keys. With the keys in reversed order, j' = L - 1 - j, the row depends on i + j' only, so
  that these rows are overlapping windows of one table: views, not copies. k . rk is the same with
  queries and keys exchanged; its logits are transposed once.

Letters: n sequences times heads of a chunk, d channels of a head; I queries and J keys of a block.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from axialseg.layers.full_precision import full_precision

# Bytes of the logits at hand: about what a core's caches hold; on a GPU, what keeps it busy.
CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**27}
FEWEST_ROWS = 32  # n of a chunk: thinner products by position are slow


def chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> Tensor:
    """An `AttentionCore` for every device, see there."""
    return _attend(query, key, value, scales, query_rows, key_rows, value_rows, span)


class _Block(NamedTuple):
    """Neighbouring queries and the keys in their reach.

    Attributes:
        queries: slice of the positions.
        keys: slice of the reversed positions.
        first: of the table's windows, that of the first query (or key).
    """

    queries: slice
    keys: slice
    first: int

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start


def _blocks(length: int, span: int, count: int) -> list[_Block]:
    """Cuts an axis into blocks of at most `count` queries."""
    reach, margin = span // 2, _margin(length, span, count)
    blocks = []
    for start in range(0, length, count):
        stop = min(start + count, length)
        first, last = max(0, start - reach), min(length, stop + reach)
        window = margin + reach + 1 + start - last
        blocks.append(_Block(slice(start, stop), slice(length - last, length - first), window))
    return blocks


def _margin(length: int, span: int, count: int) -> int:
    """Rows out of sight at each end of a table: those of the corners of local blocks."""
    return count - 1 if _is_local(length, span) else 0


def _is_local(length: int, span: int) -> bool:
    return span // 2 < length - 1


def _cut(length: int, span: int, elements: int) -> tuple[list[_Block], int]:
    """The blocks, and n of a chunk, so that a block has about so many logits."""
    count = elements // (min(span, length) * FEWEST_ROWS)
    if _is_local(length, span):
        count = min(count, max(span // 4, 8))  # the more queries, the more keys out of sight
    count = max(1, min(count, length))
    count = -(-length // -(-length // count))  # blocks of one size
    blocks = _blocks(length, span, count)
    return blocks, max(1, elements // max(math.prod(block.shape) for block in blocks))


def _even_part(total: int, wanted: float) -> int:
    """The size of equal parts, about `wanted`; the last one may be smaller."""
    return -(-total // max(1, round(total / max(wanted, 1))))


def _slices(total: int, part: int) -> list[slice]:
    """Cuts 0..total into parts."""
    return [slice(first, min(first + part, total)) for first in range(0, total, part)]


def _size(part: slice) -> int:
    return part.stop - part.start


class _Layout(NamedTuple):
    """Brings a chunk's sequences, ``[b, h, d, s, L]``, into the order of the products and back.

    The first copy keeps together what lies together in memory; the other order is the transpose of
    one matrix, for which the library has a fast way.

    Attributes:
        images: b.
        heads: h.
        is_by_position: whether the sequences lie side by side in an image, as the columns of
            ``[B, C, H, W]`` do, and not the positions of a sequence.
    """

    images: int
    heads: int
    is_by_position: bool

    def by_sequence(self, x: Tensor) -> Tensor:
        """``[b, h, d, s, L]`` -> ``[n, d, L]``."""
        if not self.is_by_position:
            return x.transpose(2, 3).flatten(0, 2).contiguous()
        length, depth, n = (x := self.by_position(x)).shape
        return x.view(-1, n).t().contiguous().view(n, length, depth).transpose(1, 2)

    def by_position(self, x: Tensor) -> Tensor:
        """``[b, h, d, s, L]`` -> ``[L, d, n]``."""
        if self.is_by_position:
            return x.permute(4, 2, 0, 1, 3).flatten(2).contiguous()
        n, depth, length = (x := self.by_sequence(x)).shape
        return x.view(n, -1).t().contiguous().view(depth, length, n).transpose(0, 1)

    def from_sequences(self, x: Tensor) -> Tensor:
        """``[n, d, L]`` -> ``[b, h, d, s, L]``."""
        if not self.is_by_position:
            return x.unflatten(0, (self.images, self.heads, -1)).transpose(2, 3)
        rows = x.flatten(1).t().contiguous()
        return rows.view(*x.shape[1:], self.images, self.heads, -1).permute(2, 3, 0, 4, 1)

    def from_positions(self, x: Tensor) -> Tensor:
        """``[L, d, n]`` -> ``[b, h, d, s, L]``."""
        return x.unflatten(2, (self.images, self.heads, -1)).permute(2, 3, 1, 4, 0)


class _Table:
    """Reversed rows of a table side by side, ``[d, rows]``, and the gradient of its windows.

    Args:
        rows: ``[span, d]``.
        margin: see `_margin`; such rows are 0.
    """

    def __init__(self, rows: Tensor, margin: int, dtype: torch.dtype) -> None:
        self.rows = F.pad(rows.to(dtype).flip(0).t(), (margin, margin)).contiguous()
        self.margin = margin
        self.gradients: dict[tuple[int, int, int], Tensor] = {}

    def windows(self, first: int, count: int, width: int) -> Tensor:
        """A view ``[count, d, width]``: one window begins a row after the other."""
        return self.rows.unfold(-1, width, 1)[:, first : first + count].transpose(0, 1)

    def add_gradient(self, first: int, left: Tensor, right: Tensor) -> None:
        """The products ``[count, d, n]`` x ``[count, n, width]`` belong to those windows."""
        place = (first, len(left), right.shape[-1])
        if place in self.gradients:
            self.gradients[place].baddbmm_(left, right)
        else:
            self.gradients[place] = torch.bmm(left, right)

    def gradient(self) -> Tensor:
        """Of `rows` as they were given, ``[span, d]``."""
        total = torch.zeros_like(self.rows)
        for (first, count, width), gradient in self.gradients.items():
            # Read as rows one shorter than they are, each one begins a column later than the last.
            flat = F.pad(gradient.transpose(0, 1), (0, count)).flatten(1)[:, :-count]
            skewed = flat.unflatten(1, (count, count + width - 1))
            total[:, first : first + count + width - 1] += skewed.sum(1)
        return total[:, self.margin : total.shape[1] - self.margin].t().flip(0).contiguous()


class _Scratch:
    """Memory for the matrices of a block, used again for the next one."""

    def __init__(self, like: Tensor, elements: int, dtype: torch.dtype) -> None:
        self.memory = like.new_empty(3, elements, dtype=dtype)

    def logits(self, *shape: int) -> Tensor:
        """Of the logits, then of the weights."""
        return self.memory[0, : math.prod(shape)].view(shape)

    def reordered(self, *shape: int) -> Tensor:
        """Of a term of the logits, or of a gradient, in another order of n, I and J."""
        return self.memory[1, : math.prod(shape)].view(shape)

    def gradient(self, *shape: int) -> Tensor:
        """Of the gradient of the weights, then of the logits."""
        return self.memory[2, : math.prod(shape)].view(shape)


class _Similarity(Protocol):
    """A term of a chunk's logits; the keys are in reversed order."""

    def add_to(self, logits: Tensor, block: _Block, is_first: bool) -> None:
        """Adds the term to a block's logits ``[n, I, J]``; the first one sets them."""
        ...

    def differentiate(self, gradient: Tensor, block: _Block) -> None:
        """Takes in the gradient ``[n, I, J]`` of a block's logits."""
        ...

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """Adds to gradients ``[b, h, d, s, L]``; returns that of the scales, float64 ``[n]``."""
        ...


class _Content:
    """q . k of a chunk.

    Args:
        query: ``[b, h, d, s, L]``.
        key: ``[b, h, d, s, L]``.
        scale: ``[n]``.
        layout: of the chunk.
    """

    def __init__(self, query: Tensor, key: Tensor, scale: Tensor, layout: _Layout) -> None:
        self.layout, self.scale = layout, scale[:, None, None]
        self.query = layout.by_sequence(query)
        self.scaled = self.query * self.scale
        self.key = layout.by_sequence(key).flip(-1)
        # The same for all keys of a query: exact, and large keys cost no precision.
        self.key -= self.key.mean(-1, keepdim=True)
        self.query_sum = self.query.new_empty(self.query.shape)
        self.key_sum = self.query.new_zeros(self.query.shape)

    def add_to(self, logits: Tensor, block: _Block, is_first: bool) -> None:
        """See `_Similarity`."""
        left = self.scaled[..., block.queries].transpose(1, 2)
        logits.baddbmm_(left, self.key[..., block.keys], beta=1 - is_first)

    def differentiate(self, gradient: Tensor, block: _Block) -> None:
        """See `_Similarity`."""
        key = self.key[..., block.keys]
        self.query_sum[..., block.queries] = torch.bmm(key, gradient.transpose(1, 2))
        self.key_sum[..., block.keys] += torch.bmm(self.scaled[..., block.queries], gradient)

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `_Similarity`."""
        key += self.layout.from_sequences(self.key_sum.flip(-1))
        scale_gradient = (self.query_sum * self.query).sum(1).sum(1, dtype=torch.float64)
        query += self.layout.from_sequences(self.query_sum.mul_(self.scale))
        return scale_gradient


class _QueryPosition:
    """q . rq of a chunk.

    Args:
        query: ``[b, h, d, s, L]``.
        scale: ``[n]``.
        table: of rq.
        layout: of the chunk.
        scratch: of the pass.
    """

    def __init__(
        self, query: Tensor, scale: Tensor, table: _Table, layout: _Layout, scratch: _Scratch
    ) -> None:
        self.scale, self.table, self.layout, self.scratch = scale, table, layout, scratch
        self.query = layout.by_position(query)
        self.scaled = self.query * scale
        self.sum = self.query.new_empty(self.query.shape)

    def add_to(self, logits: Tensor, block: _Block, is_first: bool) -> None:
        """See `_Similarity`."""
        n, queries, keys = logits.shape
        term = self.scratch.reordered(queries, n, keys)
        left = self.scaled[block.queries].transpose(1, 2)
        torch.bmm(left, self.table.windows(block.first, queries, keys), out=term)
        _add(logits, term.transpose(0, 1), is_first)

    def differentiate(self, gradient: Tensor, block: _Block) -> None:
        """See `_Similarity`."""
        windows = self.table.windows(block.first, *gradient.shape[1:])
        self.sum[block.queries] = torch.bmm(windows, gradient.permute(1, 2, 0))
        self.table.add_gradient(block.first, self.scaled[block.queries], gradient.transpose(0, 1))

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `_Similarity`."""
        scale_gradient = (self.sum * self.query).sum(1).sum(0, dtype=torch.float64)
        query += self.layout.from_positions(self.sum.mul_(self.scale))
        return scale_gradient


class _KeyPosition:
    """k . rk of a chunk; see `_QueryPosition`."""

    def __init__(
        self, key: Tensor, scale: Tensor, table: _Table, layout: _Layout, scratch: _Scratch
    ) -> None:
        self.scale, self.table, self.layout, self.scratch = scale, table, layout, scratch
        self.key = layout.by_position(key).flip(0)
        self.scaled = self.key * scale
        self.sum = self.key.new_zeros(self.key.shape)

    def add_to(self, logits: Tensor, block: _Block, is_first: bool) -> None:
        """See `_Similarity`."""
        n, queries, keys = logits.shape
        term = self.scratch.reordered(keys, n, queries)
        left = self.scaled[block.keys].transpose(1, 2)
        torch.bmm(left, self.table.windows(block.first, keys, queries), out=term)
        # Two dimensions: the library transposes such a copy tile by tile.
        _add(logits.view(-1, keys), term.view(keys, -1).t(), is_first)

    def differentiate(self, gradient: Tensor, block: _Block) -> None:
        """See `_Similarity`."""
        n, queries, keys = gradient.shape
        transposed = self.scratch.reordered(keys, n, queries)
        transposed.view(keys, -1).copy_(gradient.view(-1, keys).t())
        windows = self.table.windows(block.first, keys, queries)
        self.sum[block.keys] += torch.bmm(windows, transposed.transpose(1, 2))
        self.table.add_gradient(block.first, self.scaled[block.keys], transposed)

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `_Similarity`."""
        scale_gradient = (self.sum * self.key).sum(1).sum(0, dtype=torch.float64)
        key += self.layout.from_positions(self.sum.mul_(self.scale).flip(0))
        return scale_gradient


class _Retrieval(Protocol):
    """A term of what a chunk retrieves."""

    def retrieve(self, weights: Tensor, block: _Block) -> Tensor:
        """Weights ``[n, I, J]`` -> ``[b, h, d, s, I]``."""
        ...

    def take_gradient(self, gradient: Tensor) -> None:
        """Takes in the gradient ``[b, h, d, s, L]`` of what was retrieved."""
        ...

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: _Block, is_first: bool
    ) -> None:
        """Adds to the gradient ``[n, I, J]`` of the weights; the first term sets it."""
        ...


class _ValueContent:
    """Sum over the keys of w v of a chunk.

    Args:
        value: ``[b, h, d, s, L]``.
        layout: of the chunk.
    """

    def __init__(self, value: Tensor, layout: _Layout) -> None:
        self.layout = layout
        self.value = layout.by_sequence(value).flip(-1)

    def retrieve(self, weights: Tensor, block: _Block) -> Tensor:
        """See `_Retrieval`."""
        retrieved = torch.bmm(self.value[..., block.keys], weights.transpose(1, 2))
        return self.layout.from_sequences(retrieved)

    def take_gradient(self, gradient: Tensor) -> None:
        """See `_Retrieval`."""
        self.gradient = self.layout.by_sequence(gradient)
        self.sum = self.value.new_zeros(self.value.shape)

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: _Block, is_first: bool
    ) -> None:
        """See `_Retrieval`."""
        left = self.gradient[..., block.queries]
        right = self.value[..., block.keys]
        gradient.baddbmm_(left.transpose(1, 2), right, beta=1 - is_first)
        self.sum[..., block.keys] += torch.bmm(left, weights)

    def value_gradient(self) -> Tensor:
        """``[b, h, d, s, L]``."""
        return self.layout.from_sequences(self.sum.flip(-1))


class _ValuePosition:
    """Sum over the keys of w rv of a chunk.

    Args:
        table: of rv.
        layout: of the chunk.
        scratch: of the pass.
    """

    def __init__(self, table: _Table, layout: _Layout, scratch: _Scratch) -> None:
        self.table, self.layout, self.scratch = table, layout, scratch

    def retrieve(self, weights: Tensor, block: _Block) -> Tensor:
        """See `_Retrieval`."""
        windows = self.table.windows(block.first, *weights.shape[1:])
        return self.layout.from_positions(torch.bmm(windows, weights.permute(1, 2, 0)))

    def take_gradient(self, gradient: Tensor) -> None:
        """See `_Retrieval`."""
        self.gradient = self.layout.by_position(gradient)

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: _Block, is_first: bool
    ) -> None:
        """See `_Retrieval`."""
        n, queries, keys = weights.shape
        left = self.gradient[block.queries]
        term = self.scratch.reordered(queries, n, keys)
        windows = self.table.windows(block.first, queries, keys)
        torch.bmm(left.transpose(1, 2), windows, out=term)
        _add(gradient, term.transpose(0, 1), is_first)
        self.table.add_gradient(block.first, left, weights.transpose(0, 1))


def _add(target: Tensor, term: Tensor, is_first: bool) -> None:
    if is_first:
        target.copy_(term)
    else:
        target.add_(term)


class _Chunk(NamedTuple):
    """Some heads of some sequences of some images.

    Attributes:
        images: slice of the batch.
        heads: slice of the heads.
        sequences: slice of the sequences.
        similarities: the terms of the logits, in the order of the scales.
        content: what retrieves values, None where nothing does.
        position: what retrieves rows, None where nothing does.
    """

    images: slice
    heads: slice
    sequences: slice
    similarities: list[_Similarity]
    content: _ValueContent | None
    position: _ValuePosition | None

    def retrievals(self) -> list[_Retrieval]:
        """The terms retrieved, in the order of the output."""
        return [x for x in (self.content, self.position) if x is not None]


class _Core:
    """What both passes share; the arguments are those of `AttentionCore`."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        scales: Tensor,
        query_rows: Tensor | None,
        key_rows: Tensor | None,
        value_rows: Tensor | None,
        span: int,
    ) -> None:
        self.query, self.key, self.value = query, key, value
        self.scales = scales.to(torch.promote_types(query.dtype, torch.float32))
        self.heads = scales.shape[1]
        dtype = self.scales.dtype
        batch, _, sequences, length = query.shape
        size = CHUNK_BYTES.get(query.device.type, CHUNK_BYTES["cuda"]) // dtype.itemsize
        self.blocks, n = _cut(length, span, size)
        # Heads are taken apart first: then long pieces of memory stay together.
        self.sequences = _even_part(sequences, n)
        self.chunk_heads = _even_part(self.heads, n / sequences)
        # Small images fill a chunk together.
        self.images = _even_part(batch, n / (self.heads * sequences))
        margin = _margin(length, span, self.blocks[0].shape[0])

        def table(rows: Tensor | None) -> _Table | None:
            return None if rows is None else _Table(rows, margin, dtype)

        self.query_table, self.key_table = table(query_rows), table(key_rows)
        self.value_table = table(value_rows)
        self.hidden: _Table | None = None
        if margin:
            self.hidden = _Table(query.new_zeros(span, 1), margin, dtype)
            self.hidden.rows[:, :margin] = -torch.inf
            self.hidden.rows[:, -margin:] = -torch.inf
        pairs = max(math.prod(block.shape) for block in self.blocks)
        n = self.images * self.chunk_heads * self.sequences
        self.scratch = _Scratch(query, n * pairs, dtype)

    def chunks(self) -> Iterator[_Chunk]:
        """All heads of all sequences of all images, laid out for the products."""
        batch, _, sequences, _ = self.query.shape
        for images, heads, some in product(
            _slices(batch, self.images),
            _slices(self.heads, self.chunk_heads),
            _slices(sequences, self.sequences),
        ):
            yield self._chunk(images, heads, some)

    def _chunk(self, images: slice, heads: slice, sequences: slice) -> _Chunk:
        def part(x: Tensor) -> Tensor:
            return self._part(x, images, heads, sequences).to(self.scales.dtype)

        is_by_position = self.query.stride(2) < self.query.stride(3)
        layout = _Layout(_size(images), _size(heads), is_by_position)
        # [T, n]
        scales = self.scales[:, heads].repeat_interleave(_size(sequences), 1)
        scales = scales.repeat(1, _size(images))
        query, key = part(self.query), part(self.key)
        similarities: list[_Similarity] = []
        if len(scales) > (self.query_table is not None) + (self.key_table is not None):
            similarities.append(_Content(query, key, scales[0], layout))
        if self.query_table is not None:
            scale = scales[len(similarities)]
            similarities.append(
                _QueryPosition(query, scale, self.query_table, layout, self.scratch)
            )
        if self.key_table is not None:
            scale = scales[len(similarities)]
            similarities.append(_KeyPosition(key, scale, self.key_table, layout, self.scratch))
        content = position = None
        if self.value is not None:
            content = _ValueContent(part(self.value), layout)
        if self.value_table is not None:
            position = _ValuePosition(self.value_table, layout, self.scratch)
        return _Chunk(images, heads, sequences, similarities, content, position)

    def _part(self, x: Tensor, images: slice, heads: slice, sequences: slice) -> Tensor:
        return x[images, :, sequences].unflatten(1, (self.heads, -1))[:, heads]

    def part(self, x: Tensor, chunk: _Chunk) -> Tensor:
        """x: ``[B, C, S, L]`` -> a view of what belongs to a chunk, ``[b, h, d, s, L]``."""
        return self._part(x, chunk.images, chunk.heads, chunk.sequences)

    def retrieved(self, x: Tensor, chunk: _Chunk) -> list[Tensor]:
        """x: ``[B, T' V, S, L]`` -> a view ``[b, h, d, s, L]`` for each term retrieved."""
        return [self.part(term, chunk) for term in x.chunk(len(chunk.retrievals()), dim=1)]

    def weights(self, chunk: _Chunk, block: _Block) -> Tensor:
        """Weights ``[n, I, J]``."""
        n = _size(chunk.images) * _size(chunk.heads) * _size(chunk.sequences)
        logits = self.scratch.logits(n, *block.shape)
        # The key position first: setting transposed values is faster than adding them.
        for number, term in enumerate(reversed(chunk.similarities)):
            term.add_to(logits, block, is_first=number == 0)
        if self.hidden is not None:
            logits.add_(self.hidden.windows(block.first, *block.shape)[:, 0])
        return torch.softmax(logits, -1, out=logits)


def _forward(core: _Core, output: Tensor) -> None:
    """Fills the output ``[B, T' V, S, L]``."""
    for chunk in core.chunks():
        targets = core.retrieved(output, chunk)
        for block in core.blocks:
            weights = core.weights(chunk, block)
            for term, target in zip(chunk.retrievals(), targets, strict=True):
                target[..., block.queries] = term.retrieve(weights, block)


def _backward(core: _Core, gradient: Tensor) -> list[Tensor | None]:
    """The gradients of the core's tensors, in their order.

    Args:
        core: of the same arguments as in the forward pass.
        gradient: of the output, ``[B, T' V, S, L]``.
    """
    dtype = core.scales.dtype
    query_grad, key_grad = (_empty_like(x, x.shape[1]).zero_() for x in (core.query, core.key))
    value_grad = None if core.value is None else _empty_like(core.value, core.value.shape[1])
    # A sum over every position of the batch.
    scale_grad = torch.zeros_like(core.scales, dtype=torch.float64)
    for chunk in core.chunks():
        parts = core.retrieved(gradient, chunk)
        for retrieval, part in zip(chunk.retrievals(), parts, strict=True):
            retrieval.take_gradient(part.to(dtype))
        for block in core.blocks:
            weights = core.weights(chunk, block)
            slope = core.scratch.gradient(*weights.shape)
            for number, retrieval in enumerate(chunk.retrievals()):
                retrieval.differentiate(weights, slope, block, is_first=number == 0)
            # w (dw - sum w dw), in one pass.
            torch.ops.aten._softmax_backward_data.out(slope, weights, -1, dtype, grad_input=slope)
            for similarity in chunk.similarities:
                similarity.differentiate(slope, block)
        query_part, key_part = (core.part(x, chunk) for x in (query_grad, key_grad))
        for number, similarity in enumerate(chunk.similarities):
            gradient_of_scale = similarity.add_gradients(query_part, key_part)
            by_head = gradient_of_scale.view(*query_part.shape[:2], -1).sum((0, 2))
            scale_grad[number, chunk.heads] += by_head
        if value_grad is not None and chunk.content is not None:
            core.part(value_grad, chunk).copy_(chunk.content.value_gradient())
    tables = (core.query_table, core.key_table, core.value_table)
    rows = (None if table is None else table.gradient() for table in tables)
    return [query_grad, key_grad, value_grad, scale_grad, *rows]


def _empty_like(x: Tensor, channels: int) -> Tensor:
    """Memory for ``[B, channels, S, L]``, dense and in the order of x's."""
    order = sorted(range(4), key=x.stride, reverse=True)
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty_permuted(shape, order, dtype=x.dtype, device=x.device)


# Operators of the library, so that a compiler takes each one as a whole.
@torch.library.custom_op("axialseg::axial_attention", mutates_args=())
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> Tensor:
    output = _output(query, key, value, scales, query_rows, key_rows, value_rows, span)
    with full_precision(query):
        core = _Core(query, key, value, scales, query_rows, key_rows, value_rows, span)
        _forward(core, output)
    return output


@_attend.register_fake
def _output(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> Tensor:
    """Memory for the output."""
    channels = 0 if value is None else value.shape[1]
    if value_rows is not None:
        channels += value_rows.shape[1] * scales.shape[1]
    return _empty_like(query, channels)


@torch.library.custom_op("axialseg::axial_attention_backward", mutates_args=())
def _attend_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> list[Tensor]:
    """Gradients of the tensors that are there, in their order."""
    inputs = (query, key, value, scales, query_rows, key_rows, value_rows)
    with full_precision(query):
        gradients = _backward(_Core(*inputs, span), gradient)
    pairs = zip(gradients, inputs, strict=True)
    return [g.to(x.dtype) for g, x in pairs if g is not None and x is not None]


@_attend_backward.register_fake
def _gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> list[Tensor]:
    maps = [_empty_like(x, x.shape[1]) for x in (query, key, value) if x is not None]
    others = (scales, query_rows, key_rows, value_rows)
    return [*maps, *(torch.empty_like(x) for x in others if x is not None)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.span = inputs[-1]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    present = iter(_attend_backward(gradient, *inputs, ctx.span))
    return *(None if x is None else next(present) for x in inputs), None


_attend.register_autograd(_differentiate, setup_context=_keep)
