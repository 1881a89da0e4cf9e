"""The terms of axial attention, computed for a chunk of sequences and a block of their queries.

Everything is a matrix product. There are two layouts:

- by sequence, ``[n, d, L]``, for q . k and sum w v;
- by position, ``[L, d, n]``, for q . rq and sum w rv. Each query has a product with the table rows
  of all its keys. If the keys are in reversed order, j' = L - 1 - j, the row depends only on
  i + j'. So these rows are overlapping windows of one table, which are views and no copies.
  k . rk is the same with queries and keys exchanged; its logits are transposed once.

Letters: n sequences times heads of a chunk, d channels of a head; I queries and J keys of a block;
b images, h heads and s sequences of a chunk.
"""

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Block(NamedTuple):
    """Neighbouring queries and the keys in their reach.

    Attributes:
        queries: slice of the positions.
        keys: slice of the reversed positions.
        first: number of the table's window for the first query (or key).
    """

    queries: slice
    keys: slice
    first: int

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start


class Layout(NamedTuple):
    """Brings a chunk's sequences, ``[b, h, d, s, L]``, into the order of the products and back.

    The first copy does not separate values that are neighbours in memory. The other order is the
    transpose of one matrix, which the library makes fast.

    Attributes:
        images: b.
        heads: h.
        is_by_position: True if neighbours in memory are of different sequences, as with the
            columns of ``[B, C, H, W]``; False if they are positions of one sequence.
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


class Table:
    """Reversed rows of a table side by side, ``[d, rows]``, and the gradient of its windows.

    Args:
        rows: ``[span, d]``.
        margin: rows of zeros to add at each end, for the pairs of local blocks that are out of
            sight.
    """

    def __init__(self, rows: Tensor, margin: int, dtype: torch.dtype) -> None:
        self.rows = F.pad(rows.to(dtype).flip(0).t(), (margin, margin)).contiguous()
        self.margin = margin
        self.gradients: dict[tuple[int, int, int], Tensor] = {}

    def windows(self, first: int, count: int, width: int) -> Tensor:
        """A view ``[count, d, width]``: each window begins one row after the last."""
        return self.rows.unfold(-1, width, 1)[:, first : first + count].transpose(0, 1)

    def add_gradient(self, first: int, left: Tensor, right: Tensor) -> None:
        """Adds the products ``[count, d, n]`` x ``[count, n, width]`` to the windows' gradients."""
        place = (first, len(left), right.shape[-1])
        if place in self.gradients:
            self.gradients[place].baddbmm_(left, right)
        else:
            self.gradients[place] = torch.bmm(left, right)

    def gradient(self) -> Tensor:
        """The gradient of the table `rows` that was given, ``[span, d]``."""
        total = torch.zeros_like(self.rows)
        for (first, count, width), gradient in self.gradients.items():
            # Each row is padded. Then the memory is read with rows that are shorter by one, so that
            # every diagonal becomes a column.
            flat = F.pad(gradient.transpose(0, 1), (0, count)).flatten(1)[:, :-count]
            skewed = flat.unflatten(1, (count, count + width - 1))
            total[:, first : first + count + width - 1] += skewed.sum(1)
        return total[:, self.margin : total.shape[1] - self.margin].t().flip(0).contiguous()


class Scratch:
    """Memory for the matrices of a block; the next block uses it again."""

    def __init__(self, like: Tensor, elements: int, dtype: torch.dtype) -> None:
        self.memory = like.new_empty(3, elements, dtype=dtype)

    def logits(self, *shape: int) -> Tensor:
        """Memory for the logits, which become the weights."""
        return self.memory[0, : math.prod(shape)].view(shape)

    def reordered(self, *shape: int) -> Tensor:
        """Memory for a term of the logits, or for a gradient, in another order of n, I and J."""
        return self.memory[1, : math.prod(shape)].view(shape)

    def gradient(self, *shape: int) -> Tensor:
        """Memory for the gradient of the weights, which becomes that of the logits."""
        return self.memory[2, : math.prod(shape)].view(shape)


class Similarity(Protocol):
    """A term of a chunk's logits; the keys are in reversed order."""

    def add_to(self, logits: Tensor, block: Block, is_first: bool) -> None:
        """Adds the term to a block's logits ``[n, I, J]``; the first one sets them."""
        ...

    def differentiate(self, gradient: Tensor, block: Block) -> None:
        """Gets the gradient ``[n, I, J]`` of a block's logits."""
        ...

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """Adds to the gradients of the query and the key, each ``[b, h, d, s, L]``.

        Returns:
            The gradient of the scales, float64 ``[n]``.
        """
        ...


class Content:
    """The term q . k of a chunk.

    Args:
        query: ``[b, h, d, s, L]``.
        key: ``[b, h, d, s, L]``.
        scale: ``[n]``.
        layout: of the chunk.
    """

    def __init__(self, query: Tensor, key: Tensor, scale: Tensor, layout: Layout) -> None:
        self.layout, self.scale = layout, scale[:, None, None]
        self.query = layout.by_sequence(query)
        self.scaled = self.query * self.scale
        self.key = layout.by_sequence(key).flip(-1)
        # All logits of a query change by the same number, so the softmax stays the same. Large
        # keys then cost no precision.
        self.key -= self.key.mean(-1, keepdim=True)
        self.query_sum = self.query.new_empty(self.query.shape)
        self.key_sum = self.query.new_zeros(self.query.shape)

    def add_to(self, logits: Tensor, block: Block, is_first: bool) -> None:
        """See `Similarity`."""
        left = self.scaled[..., block.queries].transpose(1, 2)
        logits.baddbmm_(left, self.key[..., block.keys], beta=1 - is_first)

    def differentiate(self, gradient: Tensor, block: Block) -> None:
        """See `Similarity`."""
        key = self.key[..., block.keys]
        self.query_sum[..., block.queries] = torch.bmm(key, gradient.transpose(1, 2))
        self.key_sum[..., block.keys] += torch.bmm(self.scaled[..., block.queries], gradient)

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `Similarity`."""
        key += self.layout.from_sequences(self.key_sum.flip(-1))
        scale_gradient = (self.query_sum * self.query).sum(1).sum(1, dtype=torch.float64)
        query += self.layout.from_sequences(self.query_sum.mul_(self.scale))
        return scale_gradient


class QueryPosition:
    """The term q . rq of a chunk.

    Args:
        query: ``[b, h, d, s, L]``.
        scale: ``[n]``.
        table: the rows rq.
        layout: of the chunk.
        scratch: of the pass.
    """

    def __init__(
        self, query: Tensor, scale: Tensor, table: Table, layout: Layout, scratch: Scratch
    ) -> None:
        self.scale, self.table, self.layout, self.scratch = scale, table, layout, scratch
        self.query = layout.by_position(query)
        self.scaled = self.query * scale
        self.sum = self.query.new_empty(self.query.shape)

    def add_to(self, logits: Tensor, block: Block, is_first: bool) -> None:
        """See `Similarity`."""
        n, queries, keys = logits.shape
        term = self.scratch.reordered(queries, n, keys)
        left = self.scaled[block.queries].transpose(1, 2)
        torch.bmm(left, self.table.windows(block.first, queries, keys), out=term)
        _add(logits, term.transpose(0, 1), is_first)

    def differentiate(self, gradient: Tensor, block: Block) -> None:
        """See `Similarity`."""
        windows = self.table.windows(block.first, *gradient.shape[1:])
        self.sum[block.queries] = torch.bmm(windows, gradient.permute(1, 2, 0))
        self.table.add_gradient(block.first, self.scaled[block.queries], gradient.transpose(0, 1))

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `Similarity`."""
        scale_gradient = (self.sum * self.query).sum(1).sum(0, dtype=torch.float64)
        query += self.layout.from_positions(self.sum.mul_(self.scale))
        return scale_gradient


class KeyPosition:
    """The term k . rk of a chunk; arguments as of `QueryPosition`, with the key."""

    def __init__(
        self, key: Tensor, scale: Tensor, table: Table, layout: Layout, scratch: Scratch
    ) -> None:
        self.scale, self.table, self.layout, self.scratch = scale, table, layout, scratch
        self.key = layout.by_position(key).flip(0)
        self.scaled = self.key * scale
        self.sum = self.key.new_zeros(self.key.shape)

    def add_to(self, logits: Tensor, block: Block, is_first: bool) -> None:
        """See `Similarity`."""
        n, queries, keys = logits.shape
        term = self.scratch.reordered(keys, n, queries)
        left = self.scaled[block.keys].transpose(1, 2)
        torch.bmm(left, self.table.windows(block.first, keys, queries), out=term)
        # Two dimensions: the library transposes such a copy tile by tile.
        _add(logits.view(-1, keys), term.view(keys, -1).t(), is_first)

    def differentiate(self, gradient: Tensor, block: Block) -> None:
        """See `Similarity`."""
        n, queries, keys = gradient.shape
        transposed = self.scratch.reordered(keys, n, queries)
        transposed.view(keys, -1).copy_(gradient.view(-1, keys).t())
        windows = self.table.windows(block.first, keys, queries)
        self.sum[block.keys] += torch.bmm(windows, transposed.transpose(1, 2))
        self.table.add_gradient(block.first, self.scaled[block.keys], transposed)

    def add_gradients(self, query: Tensor, key: Tensor) -> Tensor:
        """See `Similarity`."""
        scale_gradient = (self.sum * self.key).sum(1).sum(0, dtype=torch.float64)
        key += self.layout.from_positions(self.sum.mul_(self.scale).flip(0))
        return scale_gradient


class Retrieval(Protocol):
    """A term that a chunk retrieves with its weights."""

    def retrieve(self, weights: Tensor, block: Block) -> Tensor:
        """Weights ``[n, I, J]`` -> ``[b, h, d, s, I]``."""
        ...

    def take_gradient(self, gradient: Tensor) -> None:
        """Gets the gradient ``[b, h, d, s, L]`` of what was retrieved."""
        ...

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: Block, is_first: bool
    ) -> None:
        """Adds to the gradient ``[n, I, J]`` of the weights; the first term sets it."""
        ...


class ValueContent:
    """The sum of w v over the keys of a chunk.

    Args:
        value: ``[b, h, d, s, L]``.
        layout: of the chunk.
    """

    def __init__(self, value: Tensor, layout: Layout) -> None:
        self.layout = layout
        self.value = layout.by_sequence(value).flip(-1)

    def retrieve(self, weights: Tensor, block: Block) -> Tensor:
        """See `Retrieval`."""
        retrieved = torch.bmm(self.value[..., block.keys], weights.transpose(1, 2))
        return self.layout.from_sequences(retrieved)

    def take_gradient(self, gradient: Tensor) -> None:
        """See `Retrieval`."""
        self.gradient = self.layout.by_sequence(gradient)
        self.sum = self.value.new_zeros(self.value.shape)

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: Block, is_first: bool
    ) -> None:
        """See `Retrieval`."""
        left = self.gradient[..., block.queries]
        right = self.value[..., block.keys]
        gradient.baddbmm_(left.transpose(1, 2), right, beta=1 - is_first)
        self.sum[..., block.keys] += torch.bmm(left, weights)

    def value_gradient(self) -> Tensor:
        """The gradient of the values, ``[b, h, d, s, L]``."""
        return self.layout.from_sequences(self.sum.flip(-1))


class ValuePosition:
    """The sum of w rv over the keys of a chunk.

    Args:
        table: the rows rv.
        layout: of the chunk.
        scratch: of the pass.
    """

    def __init__(self, table: Table, layout: Layout, scratch: Scratch) -> None:
        self.table, self.layout, self.scratch = table, layout, scratch

    def retrieve(self, weights: Tensor, block: Block) -> Tensor:
        """See `Retrieval`."""
        windows = self.table.windows(block.first, *weights.shape[1:])
        return self.layout.from_positions(torch.bmm(windows, weights.permute(1, 2, 0)))

    def take_gradient(self, gradient: Tensor) -> None:
        """See `Retrieval`."""
        self.gradient = self.layout.by_position(gradient)

    def differentiate(
        self, weights: Tensor, gradient: Tensor, block: Block, is_first: bool
    ) -> None:
        """See `Retrieval`."""
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
