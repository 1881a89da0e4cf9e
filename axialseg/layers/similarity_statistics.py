"""Mean and variance of the similarities of axial attention, without the similarities.

A similarity is a product x = left . right of the vectors of two positions. Over all pairs of two
groups, sum x^2 = <sum left left^T, sum right right^T>: two Gram matrices, d x d, take the place of
the L x L products. docs/axial_attention.md has the derivation.

Where the mean is many standard deviations, the squares would lose the variance in float32. So a
constant near the mean, c = left_center . right_center, is taken off beforehand:
x - c = [left, (left - left_center) . right_center] . [right - right_center, 1]. Every constant
gives the same statistics; gradients are taken with the centers held fixed.

Shapes: B batch, S sequences of an image, L their positions, h heads, d channels of a head, T terms;
D = d + 1.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from axialseg.layers.batch_norm import sum_over_ranks, world_size

LOCAL_PAIRS = 2**18  # that are in memory at a time where a span keeps Gram matrices from being used


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
    query_center, key_center = _center(query), _center(key)
    left = _with_rest(query, query_center, key_center)
    right = _with_one(key - key_center[:, :, None, None])
    length = query.shape[-1]
    if span == 2 * length - 1:
        gram = torch.einsum("bhdsi,bhesi->bhsde", left, left)
        other = torch.einsum("bhdsj,bhesj->bhsde", right, right)
        # The last component on the right is 1: its products are the sum of the others.
        total = _sum(left.sum(-1).transpose(2, 3) * other[..., -1], (0, 2, 3))
        squares = _sum(gram * other, (0, 2, 3, 4))
    else:
        total, squares = _LocalMoments.apply(left, right, span // 2)
    pairs = query.shape[0] * query.shape[3] * visible_offsets(length, span, query).sum()
    center = (query_center * key_center).sum(1)
    return Moments(pairs.expand_as(center), center, total, squares)


def position_moments(x: Tensor, rows: Tensor) -> Moments:
    """Of x_i . r_{j - i}, for each position i and all j in sight.

    Args:
        x: queries ``[B, h, d, S, L]``; or keys, with the rows in reversed order.
        rows: ``[span, d]`` as in `AttentionCore`.
    """
    visible = visible_offsets(x.shape[-1], len(rows), x)
    center = _center(x)
    row_center = (visible.sum(0) @ rows.detach() / visible.sum()).expand_as(center)
    left = _with_rest(x, center, row_center)
    right = F.pad(rows - row_center[0], (0, 1), value=1.0)  # [span, D]
    # The Gram matrices [L, D, D] of the rows in sight of each position.
    products = right[:, :, None] * right[:, None]
    other = (visible @ products.flatten(1)).view(-1, *products.shape[1:])
    gram = torch.einsum("bhdsi,bhesi->hide", left, left)
    total = _sum(left.sum((0, 3)).transpose(1, 2) * other[..., -1], (1, 2))
    squares = _sum(gram * other, (1, 2, 3))
    constant = (center * row_center).sum(1)
    pairs = x.shape[0] * x.shape[3] * visible.sum()
    return Moments(pairs.expand_as(constant), constant, total, squares)


def visible_offsets(length: int, span: int, like: Tensor) -> Tensor:
    """1 where a position has a neighbour at an offset, else 0: ``[L, span]``."""
    reach = span // 2
    position = torch.arange(length, device=like.device)[:, None]
    neighbour = position + torch.arange(-reach, reach + 1, device=like.device)
    return ((neighbour >= 0) & (neighbour < length)).to(like.dtype)


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """In float64: sums over so many pairs are where float32 would lose the most."""
    return x.sum(axes, dtype=torch.float64)


def _center(x: Tensor) -> Tensor:
    """x: ``[B, h, d, S, L]`` -> its mean ``[h, d]``."""
    return x.detach().mean((0, 3, 4))


def _with_rest(x: Tensor, center: Tensor, other: Tensor) -> Tensor:
    """[x, (x - center) . other]: ``[B, h, d, S, L]`` -> ``[B, h, D, S, L]``."""
    rest = torch.einsum("bhdsl,hd->bhsl", x - center[:, :, None, None], other)
    return torch.cat((x, rest[:, :, None]), dim=2)


def _with_one(x: Tensor) -> Tensor:
    """[x, 1]: ``[B, h, d, S, L]`` -> ``[B, h, D, S, L]``."""
    return torch.cat((x, torch.ones_like(x[:, :, :1])), dim=2)


class _LocalMoments(torch.autograd.Function):
    """Sum and sum of squares of left_i . right_j over |j - i| <= reach, some pairs at a time."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """left, right: ``[B, h, D, S, L]`` -> two times ``[h]``."""
        ctx.save_for_backward(left, right)
        ctx.reach = reach
        total = left.new_zeros(left.shape[1], dtype=torch.float64)
        squares = total.clone()
        for x, y, visible in _tiles(left, right, reach):
            products = (x.transpose(-1, -2) @ y).mul_(visible).flatten(1)
            total += products.sum(1)
            squares += torch.linalg.vecdot(products, products)
        return total, squares

    @staticmethod
    def backward(ctx: Any, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradients of left and right."""
        left, right = ctx.saved_tensors
        grads = torch.zeros_like(left), torch.zeros_like(right)
        total, squares = (x.to(left.dtype) for x in (total, squares))
        total, squares = total[:, None, None, None], 2 * squares[:, None, None, None]
        for (x, y, visible), (x_grad, y_grad, _) in zip(
            _tiles(left, right, ctx.reach), _tiles(*grads, ctx.reach), strict=True
        ):
            slope = (x.transpose(-1, -2) @ y).mul_(squares).add_(total).mul_(visible)
            x_grad += y @ slope.transpose(-1, -2)
            y_grad += x @ slope
        return *grads, None


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
