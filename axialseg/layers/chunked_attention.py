"""The core of axial attention in chunks: the logits are never in memory as a whole.

The backward pass keeps only the inputs and computes the weights again. A chunk is a number of
sequences, and small images share a chunk. Its queries are taken block by block with all keys in
their reach, so that the logits of a block fit in a cache. attention_terms.py computes a block.

Letters: n sequences times heads of a chunk, d channels of a head; I queries and J keys of a block.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from axialseg.layers.attention_terms import (
    Block,
    Content,
    KeyPosition,
    Layout,
    QueryPosition,
    Retrieval,
    Scratch,
    Similarity,
    Table,
    ValueContent,
    ValuePosition,
)
from axialseg.layers.axial_inputs import (
    AXIAL_INPUTS_SCHEMA,
    AxialInputs,
    empty_gradients,
    empty_like,
)
from axialseg.layers.full_precision import full_precision

# Bytes of the logits in memory at a time: about a core's caches; on a GPU, enough to keep it busy.
CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**27}
FEWEST_ROWS = 32  # a chunk has at least this n: thinner products by position are slow


def chunked_attention(inputs: AxialInputs, scales: Tensor) -> Tensor:
    """An `AttentionCore` for every device, see there."""
    return _attend(*inputs, scales)


def _blocks(length: int, span: int, count: int) -> list[Block]:
    """Cuts an axis into blocks of at most `count` queries."""
    reach, margin = span // 2, _margin(length, span, count)
    blocks = []
    for start in range(0, length, count):
        stop = min(start + count, length)
        first, last = max(0, start - reach), min(length, stop + reach)
        window = margin + reach + 1 + start - last
        blocks.append(Block(slice(start, stop), slice(length - last, length - first), window))
    return blocks


def _margin(length: int, span: int, count: int) -> int:
    """Rows to add at each end of a table, for the pairs of local blocks that are out of sight."""
    return count - 1 if _is_local(length, span) else 0


def _is_local(length: int, span: int) -> bool:
    return span // 2 < length - 1


def _cut(length: int, span: int, elements: int) -> tuple[list[Block], int]:
    """The blocks, and n of a chunk, so that a block has about `elements` logits."""
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


class _Chunk(NamedTuple):
    """Some heads of some sequences of some images.

    Attributes:
        images: slice of the batch.
        heads: slice of the heads.
        sequences: slice of the sequences.
        similarities: the terms of the logits, in the order of the scales.
        content: what retrieves values; None if nothing does.
        position: what retrieves table rows; None if nothing does.
    """

    images: slice
    heads: slice
    sequences: slice
    similarities: list[Similarity]
    content: ValueContent | None
    position: ValuePosition | None

    def retrievals(self) -> list[Retrieval]:
        """The terms that are retrieved, in the order of the output."""
        return [x for x in (self.content, self.position) if x is not None]


class _Core:
    """What both passes share; the arguments are those of `AttentionCore`."""

    def __init__(self, inputs: AxialInputs, scales: Tensor) -> None:
        query, span = inputs.query, inputs.span
        self.query, self.key, self.value = query, inputs.key, inputs.value
        self.heads, self.uses_content = inputs.heads, inputs.uses_content
        self.scales = scales.to(torch.promote_types(query.dtype, torch.float32))
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

        def table(rows: Tensor | None) -> Table | None:
            return None if rows is None else Table(rows, margin, dtype)

        self.query_table, self.key_table = table(inputs.query_rows), table(inputs.key_rows)
        self.value_table = table(inputs.value_rows)
        self.hidden: Table | None = None
        if margin:
            self.hidden = Table(query.new_zeros(span, 1), margin, dtype)
            self.hidden.rows[:, :margin] = -torch.inf
            self.hidden.rows[:, -margin:] = -torch.inf
        pairs = max(math.prod(block.shape) for block in self.blocks)
        n = self.images * self.chunk_heads * self.sequences
        self.scratch = Scratch(query, n * pairs, dtype)

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
        layout = Layout(_size(images), _size(heads), is_by_position)
        # [T, n]
        scales = self.scales[:, heads].repeat_interleave(_size(sequences), 1)
        scales = scales.repeat(1, _size(images))
        query, key = part(self.query), part(self.key)
        similarities: list[Similarity] = []
        if self.uses_content:
            similarities.append(Content(query, key, scales[0], layout))
        if self.query_table is not None:
            scale = scales[len(similarities)]
            similarities.append(QueryPosition(query, scale, self.query_table, layout, self.scratch))
        if self.key_table is not None:
            scale = scales[len(similarities)]
            similarities.append(KeyPosition(key, scale, self.key_table, layout, self.scratch))
        content = position = None
        if self.value is not None:
            content = ValueContent(part(self.value), layout)
        if self.value_table is not None:
            position = ValuePosition(self.value_table, layout, self.scratch)
        return _Chunk(images, heads, sequences, similarities, content, position)

    def _part(self, x: Tensor, images: slice, heads: slice, sequences: slice) -> Tensor:
        return x[images, :, sequences].unflatten(1, (self.heads, -1))[:, heads]

    def part(self, x: Tensor, chunk: _Chunk) -> Tensor:
        """x: ``[B, C, S, L]`` -> a view of a chunk's part, ``[b, h, d, s, L]``."""
        return self._part(x, chunk.images, chunk.heads, chunk.sequences)

    def retrieved(self, x: Tensor, chunk: _Chunk) -> list[Tensor]:
        """x: ``[B, T' V, S, L]`` -> a view ``[b, h, d, s, L]`` for each retrieved term."""
        return [self.part(term, chunk) for term in x.chunk(len(chunk.retrievals()), dim=1)]

    def weights(self, chunk: _Chunk, block: Block) -> Tensor:
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
    query_grad, key_grad = (empty_like(x).zero_() for x in (core.query, core.key))
    value_grad = None if core.value is None else empty_like(core.value)
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
    return [query_grad, key_grad, value_grad, *rows, scale_grad]


# Operators of the library, so that a compiler takes each one as a whole.
@torch.library.custom_op(
    "axialseg::axial_attention",
    mutates_args=(),
    schema=f"({AXIAL_INPUTS_SCHEMA}, Tensor scales) -> Tensor",
)
def _attend(*arguments: Any) -> Tensor:
    inputs, scales = AxialInputs(*arguments[:-1]), arguments[-1]
    output = empty_like(inputs.query, inputs.retrieved_channels)
    with full_precision(inputs.query):
        _forward(_Core(inputs, scales), output)
    return output


@_attend.register_fake
def _(*arguments: Any) -> Tensor:
    inputs = AxialInputs(*arguments[:-1])
    return empty_like(inputs.query, inputs.retrieved_channels)


@torch.library.custom_op(
    "axialseg::axial_attention_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, {AXIAL_INPUTS_SCHEMA}, Tensor scales) -> Tensor[]",
)
def _attend_backward(gradient: Tensor, *arguments: Any) -> list[Tensor]:
    """The gradients of the tensors that are there, in their order; the scales are the last."""
    inputs, scales = AxialInputs(*arguments[:-1]), arguments[-1]
    with full_precision(inputs.query):
        gradients = _backward(_Core(inputs, scales), gradient)
    pairs = zip(gradients, (*inputs.tensors, scales), strict=True)
    return [g.to(x.dtype) for g, x in pairs if g is not None and x is not None]


@_attend_backward.register_fake
def _(gradient: Tensor, *arguments: Any) -> list[Tensor]:
    return empty_gradients(AxialInputs(*arguments[:-1]), arguments[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *given, scales = inputs
    ctx.save_for_backward(*given[:6], scales)
    ctx.options = given[6:]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, scales = ctx.saved_tensors
    present = iter(_attend_backward(gradient, *tensors, *ctx.options, scales))
    gradients = [None if x is None else next(present) for x in tensors]
    return *gradients, *(None for _ in ctx.options), next(present)


_attend.register_autograd(_differentiate, setup_context=_keep)
