"""Mean and variance of the similarities of axial attention, without the similarities.

A similarity is a product x = left . right of the vectors of two positions. Over all pairs of two
groups, sum x^2 = <sum left left^T, sum right right^T>: two Gram matrices, d x d, take the place of
the L x L products. docs/axial_attention.md has the derivation.

If the mean is many standard deviations, the variance is lost in float32 squares. So a center, a
vector near its mean, is subtracted from each side, and the product of the centers from x:
x - c.c' = l.r + l.c' + c.r with l = left - c, r = right - c'. Every center gives the same
statistics, so gradients are taken with fixed centers.

Shapes: B batch, S sequences of an image, L their positions, h heads, d channels of a head, T terms.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from axialseg.layers.batch_norm import BatchNorm, sum_over_ranks, world_size

LOCAL_PAIRS = 2**18  # in memory at a time where a span does not allow Gram matrices


class Moments(NamedTuple):
    """Sums over the pairs in sight, for each head.

    Attributes:
        pairs: ``[h]`` number of them.
        center: ``[h]`` what was taken off each similarity.
        total: ``[h]`` sum of x - center.
        squares: ``[h]`` sum of (x - center)^2.
    """

    pairs: Tensor
    center: Tensor
    total: Tensor
    squares: Tensor


def norm_scales(norm: BatchNorm, heads: int, terms: list[Moments]) -> Tensor:
    """What the softmax sees of the similarities' batch norm: its scales, ``[T, heads]``.

    Args:
        norm: of T terms with a channel for each head.
        heads: h.
        terms: of the batch; the running statistics move. Empty in evaluation.
    """
    variance = norm.running_var
    if terms:
        mean, variance = mean_and_variance(terms)
        norm.update(mean, variance)
    scales = norm.weight * torch.rsqrt(variance + norm.eps).to(norm.weight.dtype)
    # The bias has no effect. Its gradient is 0, not None: ranks average all gradients.
    return (scales + 0 * norm.bias).view(-1, heads)


def mean_and_variance(terms: list[Moments]) -> tuple[Tensor, Tensor]:
    """Statistics ``[T * h]`` over the pairs of all ranks; the variance is biased.

    Differentiable. Ranks exchange once.
    """
    count, center, total, squares = (torch.cat(parts) for parts in zip(*terms, strict=True))
    if world_size() == 1:
        mean = total / count
        return mean + center, squares / count - mean.square()
    # Each rank has its own center; in float64 the moments about 0 are as good.
    count, center, total, squares = (x.double() for x in (count, center, total, squares))
    sums = (count, total + count * center, squares + center * (2 * total + count * center))
    count, total, squares = sum_over_ranks(torch.stack(sums))
    mean = total / count
    return mean, squares / count - mean.square()


def content_moments(query: Tensor, key: Tensor, span: int) -> Moments:
    """Of q . k.

    Args:
        query: ``[B, h, d, S, L]``, float32 or float64.
        key: the same.
        span: as in `AttentionCore`.
    """
    centers = _center(query), _center(key)
    batch, _, _, sequences, length = query.shape
    if span == 2 * length - 1:
        left, right = (
            _grams(x, center, SEQUENCE) for x, center in zip((query, key), centers, strict=True)
        )
        total, squares = _pair_moments(left, right, *centers)
    else:
        left_rest = _with_rest(query, *centers)
        total, squares = _local_moments(left_rest, _with_one(key, centers[1]), span // 2)
    pairs = batch * sequences * visible_offsets(length, span, query).sum()
    center = (centers[0].double() * centers[1].double()).sum(1)
    return Moments(pairs.expand_as(center), center, total, squares)


def position_moments(x: Tensor, rows: Tensor) -> Moments:
    """Of x_i . r_{j - i}, for each position i and all j in sight.

    Args:
        x: queries ``[B, h, d, S, L]``; or keys, with the rows in reversed order.
        rows: ``[span, d]`` as in `AttentionCore`.
    """
    visible = visible_offsets(x.shape[-1], len(rows), x)
    center = _center(x)
    row_center = visible.sum(0) @ rows.detach() / visible.sum()
    right = rows - row_center
    outer = (right[:, :, None] * right[:, None]).flatten(1)
    in_sight = _Grams(
        (visible @ outer).view(-1, right.shape[1], right.shape[1]),
        visible @ right,
        visible.sum(1),
    )
    row_centers = row_center.expand_as(center)
    total, squares = _pair_moments(_grams(x, center, POSITION), in_sight, center, row_centers)
    pairs = x.shape[0] * x.shape[3] * visible.sum()
    constant = (center.double() * row_centers.double()).sum(1)
    return Moments(pairs.expand_as(constant), constant, total, squares)


def visible_offsets(length: int, span: int, like: Tensor) -> Tensor:
    """1 where a position has a neighbour at an offset, else 0: ``[L, span]``."""
    reach = span // 2
    position = torch.arange(length, device=like.device)[:, None]
    neighbour = position + torch.arange(-reach, reach + 1, device=like.device)
    return ((neighbour >= 0) & (neighbour < length)).to(like.dtype)


def _center(x: Tensor) -> Tensor:
    """x: ``[B, h, d, S, L]`` -> its mean ``[h, d]``."""
    return x.detach().mean((0, 3, 4))


class _Grams(NamedTuple):
    """Of the vectors of each group, taken from a center.

    Attributes:
        products: ``[..., d, d]`` sums of their products.
        totals: ``[..., d]`` sums of themselves.
        number: ``[...]`` of them.
    """

    products: Tensor
    totals: Tensor
    number: Tensor


def _pair_moments(
    left: _Grams, right: _Grams, left_center: Tensor, right_center: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of x - c.c' over all pairs of each group, ``[h]`` each, in float64.

    Args:
        left: ``[B, h, groups]``.
        right: that broadcast to it.
        left_center: ``[h, d]``.
        right_center: ``[h, d]``.
    """
    c, c_right = (center[:, None, :, None] for center in (left_center, right_center))
    left_seen, right_seen = left.products @ c_right, right.products @ c  # [B, h, groups, d, 1]

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1)

    left_shift = dot(left.totals, c_right[..., 0])  # sum of l.c'
    right_shift = dot(right.totals, c[..., 0])
    left_squares = dot(left_seen[..., 0], c_right[..., 0])  # sum of (l.c')^2
    right_squares = dot(right_seen[..., 0], c[..., 0])
    total = dot(left.totals, right.totals) + right.number * left_shift + left.number * right_shift
    squares = (
        dot(left.products.flatten(-2), right.products.flatten(-2))
        + right.number * left_squares
        + left.number * right_squares
        + 2 * dot(left_seen[..., 0], right.totals)
        + 2 * dot(left.totals, right_seen[..., 0])
        + 2 * left_shift * right_shift
    )
    # Sums over so many pairs are where float32 would lose the most.
    return total.sum((0, 2), dtype=torch.float64), squares.sum((0, 2), dtype=torch.float64)


SEQUENCE, POSITION = 3, 4  # what is a group: an axis of B, h, d, S, L


def _grams(x: Tensor, center: Tensor, groups: int) -> _Grams:
    """Of x - center, ``[B, h, S]`` or ``[1, h, L]``.

    Args:
        x: ``[B, h, d, S, L]``.
        center: ``[h, d]``.
        groups: axis of x; each sequence of an image, or each position of all sequences.
    """
    products, totals = _Gram.apply(x, center, groups)
    count = x.numel() // totals.numel()
    return _Grams(products, totals, totals.new_full((1, 1, 1), count))


class _Gram(torch.autograd.Function):
    """Sums of products and of the vectors themselves; keeps no copy of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, center: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Arguments as for `_grams` -> ``[B, h, groups, d, d]``, ``[B, h, groups, d]``."""
        ctx.save_for_backward(x, center)
        ctx.groups = groups
        rows = _grouped(x, center, groups)
        shape = (-1, x.shape[1], x.shape[groups], x.shape[2])
        products, totals = torch.bmm(rows, rows.mT), rows.sum(-1)
        return products.view(*shape, shape[-1]), totals.view(shape)

    @staticmethod
    def backward(ctx: Any, products: Tensor, totals: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        x, center = ctx.saved_tensors
        rows = _grouped(x, center, ctx.groups)
        slope = (products + products.mT).flatten(0, 2)
        gradient = torch.baddbmm(totals.flatten(0, 2)[..., None], slope, rows)
        order = ORDER[ctx.groups]
        permuted = gradient.view([x.shape[axis] for axis in order])
        return permuted.permute([order.index(axis) for axis in range(5)]), None, None


# The axes of x: those of groups, d, and those that are summed over.
ORDER = {SEQUENCE: (0, 1, 3, 2, 4), POSITION: (1, 4, 2, 0, 3)}


def _grouped(x: Tensor, center: Tensor, groups: int) -> Tensor:
    """X - center as ``[all groups, d, N]``."""
    order = ORDER[groups]
    rows = x.permute(order).clone(memory_format=torch.contiguous_format)
    rows -= center[None, :, :, None, None].permute(order)
    first = order.index(2)
    return rows.flatten(first + 1).flatten(0, first - 1)


def _with_rest(x: Tensor, center: Tensor, other: Tensor) -> Tensor:
    """[x, (x - center) . other]: ``[B, h, d, S, L]`` -> ``[B, h, D, S, L]``."""
    rest = torch.einsum("bhdsl,hd->bhsl", x - center[:, :, None, None], other)
    return torch.cat((x, rest[:, :, None]), dim=2)


def _with_one(x: Tensor, center: Tensor) -> Tensor:
    """[x - center, 1]: ``[B, h, d, S, L]`` -> ``[B, h, D, S, L]``."""
    return torch.cat((x - center[:, :, None, None], torch.ones_like(x[:, :, :1])), dim=2)


# An operator of the library, so that a compiler takes it as a whole.
@torch.library.custom_op("axialseg::local_moments", mutates_args=())
def _local_moments(left: Tensor, right: Tensor, reach: int) -> Tensor:
    """Sum and sum of squares of left_i . right_j over |j - i| <= reach, some pairs at a time.

    Args:
        left: ``[B, h, D, S, L]``.
        right: the same.
        reach: farthest key in sight.

    Returns:
        ``[2, h]``, float64.
    """
    sums = left.new_zeros(2, left.shape[1], dtype=torch.float64)
    for x, y, visible in _tiles(left, right, reach):
        products = (x.transpose(-1, -2) @ y).mul_(visible).flatten(1)
        sums[0] += products.sum(1)
        sums[1] += torch.linalg.vecdot(products, products)
    return sums


@_local_moments.register_fake
def _(left: Tensor, right: Tensor, reach: int) -> Tensor:
    return left.new_empty(2, left.shape[1], dtype=torch.float64)


@torch.library.custom_op("axialseg::local_moments_backward", mutates_args=())
def _local_moments_backward(
    gradient: Tensor, left: Tensor, right: Tensor, reach: int
) -> tuple[Tensor, Tensor]:
    """The gradients of left and right, from that of the sums."""
    grads = torch.zeros_like(left), torch.zeros_like(right)
    total, squares = gradient.to(left.dtype)[..., None, None, None]
    for (x, y, visible), (x_grad, y_grad, _) in zip(
        _tiles(left, right, reach), _tiles(*grads, reach), strict=True
    ):
        slope = (x.transpose(-1, -2) @ y).mul_(2 * squares).add_(total).mul_(visible)
        x_grad += y @ slope.transpose(-1, -2)
        y_grad += x @ slope
    return grads


@_local_moments_backward.register_fake
def _(gradient: Tensor, left: Tensor, right: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(left), torch.empty_like(right)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.reach = inputs[2]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_local_moments_backward(gradient, *ctx.saved_tensors, ctx.reach), None


_local_moments.register_autograd(_differentiate, setup_context=_keep)


def _tiles(left: Tensor, right: Tensor, reach: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Views ``[h, s, D, I]``, ``[h, s, D, J]`` of the sides, and what is in sight ``[I, J]``."""
    batch, heads, _, sequences, length = left.shape
    queries = max(reach // 2, 8)
    count = max(1, LOCAL_PAIRS // (heads * queries * (queries + 2 * reach)))
    position = torch.arange(length, device=left.device)
    for image, first, start in product(
        range(batch), range(0, sequences, count), range(0, length, queries)
    ):
        i = slice(start, start + queries)
        j = slice(max(0, start - reach), start + queries + reach)
        visible = (position[j] - position[i, None]).abs() <= reach
        x, y = (t[image, :, :, first : first + count].transpose(1, 2) for t in (left, right))
        yield x[..., i], y[..., j], visible
