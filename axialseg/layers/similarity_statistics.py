"""Mean and variance of the similarities of axial attention, without the similarities.

A similarity is a product x = left . right of the vectors of two positions. Over all pairs of two
groups, sum x^2 = <sum left left^T, sum right right^T>: two Gram matrices, d x d, take the place of
the L x L products. docs/axial_attention.md has the derivation.

Where the mean is many standard deviations, the squares would lose the variance in float32. So each
side is taken from a center, a vector near its mean, and the product of the centers from x:
x - c.c' = [left - c, 1] . F [right - c', 1] with F = (I, c'; c, 0). Every center gives the same
statistics; gradients are taken with the centers held fixed.

Shapes: B batch, S sequences of an image, L their positions, h heads, d channels of a head, T terms;
D = d + 1; G groups.
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
    centers = _center(query), _center(key)
    batch, _, _, sequences, length = query.shape
    if span == 2 * length - 1:
        left, right = (
            _gram(x, center, BY_SEQUENCE) for x, center in zip((query, key), centers, strict=True)
        )
        total, squares = _gram_moments(left, right, *centers)
    else:
        left = _with_rest(query, *centers)
        total, squares = _local_moments(left, _with_one(key, centers[1]), span // 2)
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
    right = F.pad(rows - row_center, (0, 1), value=1.0)  # [span, D]
    products = (right[:, :, None] * right[:, None]).flatten(1)
    in_sight = (visible @ products).view(-1, right.shape[1], right.shape[1])  # [L, D, D]
    left = _gram(x, center, BY_POSITION)
    row_centers = row_center.expand_as(center)
    total, squares = _gram_moments(left, in_sight, center, row_centers)
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


def _gram_moments(
    left: Tensor, right: Tensor, left_center: Tensor, right_center: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of x - c.c' over all pairs of each group, ``[h]`` each, in float64.

    Args:
        left: Gram matrices ``[B, h, G, D, D]``.
        right: that broadcast to them.
        left_center: ``[h, d]``.
        right_center: ``[h, d]``.
    """
    depth = left_center.shape[1]
    form = F.pad(torch.eye(depth, dtype=left.dtype, device=left.device), (0, 1, 0, 1))
    form = form.repeat(len(left_center), 1, 1)
    form[:, :depth, depth], form[:, depth, :depth] = right_center, left_center
    form = form[:, None]  # [h, 1, D, D]
    mapped = form @ right @ form.mT
    # The last column of a Gram matrix is the sum of its vectors.
    sums = (form @ right[..., -1:]).squeeze(-1)
    # Sums over so many pairs are where float32 would lose the most.
    total = (left[..., -1] * sums).sum((0, 2, 3), dtype=torch.float64)
    return total, (left * mapped).sum((0, 2, 3, 4), dtype=torch.float64)


def _gram(x: Tensor, center: Tensor, order: tuple[int, ...]) -> Tensor:
    """Gram matrices of [x - center, 1], ``[B, h, G, D, D]``; B is 1 where images are one group.

    Args:
        x: ``[B, h, d, S, L]``.
        center: ``[h, d]``.
        order: of the axes of x: two or three of groups, d, and those that are summed over.
    """
    gram, total = _Gram.apply(x, center, order)
    groups = order.index(2)
    count = x.numel() // total.numel()
    top = torch.cat((gram, total[..., None]), -1)
    bottom = F.pad(total, (0, 1), value=float(count))[..., None, :]
    extended = torch.cat((top, bottom), -2)
    return extended.view(-1, x.shape[1], x.shape[order[groups - 1]], *extended.shape[-2:])


BY_SEQUENCE = (0, 1, 3, 2, 4)  # of B, h, d, S, L: for each image, head and sequence over L
BY_POSITION = (1, 4, 2, 0, 3)  # for each head and position over all sequences


class _Gram(torch.autograd.Function):
    """Sums of products and of the vectors themselves; keeps no copy of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, center: Tensor, order: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Arguments as for `_gram` -> ``[groups, d, d]``, ``[groups, d]``."""
        ctx.save_for_backward(x, center)
        ctx.order = order
        rows = _grouped(x, center, order)
        return torch.bmm(rows, rows.mT), rows.sum(-1)

    @staticmethod
    def backward(ctx: Any, gram: Tensor, total: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        x, center = ctx.saved_tensors
        rows = _grouped(x, center, ctx.order)
        gradient = torch.baddbmm(total[..., None], gram + gram.mT, rows)
        permuted = gradient.view([x.shape[axis] for axis in ctx.order])
        return permuted.permute([ctx.order.index(axis) for axis in range(5)]), None, None


def _grouped(x: Tensor, center: Tensor, order: tuple[int, ...]) -> Tensor:
    """X - center as ``[groups, d, N]``."""
    rows = x.permute(order).clone(memory_format=torch.contiguous_format)
    rows -= center[None, :, :, None, None].permute(order)
    groups = order.index(2)
    return rows.flatten(groups + 1).flatten(0, groups - 1)


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
