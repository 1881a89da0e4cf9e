"""Position-sensitive axial attention without an L x L map in memory.

The softmax does not see what is the same for all keys of a query. So of the similarities' batch
norms only the scales are left, gamma / sqrt(variance + eps), and the variances follow from Gram
matrices. docs/axial_attention.md has the derivation.

Shapes: B batch, S sequences of an image (its columns or rows), L length of the attended axis,
h heads, K and V channels of all heads' keys and values.
"""

from typing import Protocol

import torch
from torch import Tensor

from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.chunked_attention import chunked_attention
from axialseg.layers.full_precision import full_precision, widened
from axialseg.layers.similarity_statistics import (
    content_moments,
    mean_and_variance,
    position_moments,
)


class AttentionCore(Protocol):
    """Softmax attention with scaled similarity terms; differentiable in every tensor, once.

    logits[i, j] = scales[0] q_i . k_j + scales[1] q_i . rq_{j-i} + scales[2] k_j . rk_{j-i}
    content_i    = sum_j w[i, j] v_j,   position_i = sum_j w[i, j] rv_{j-i},   w = softmax_j(logits)
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        scales: Tensor,
        query_rows: Tensor | None,
        key_rows: Tensor | None,
        value_rows: Tensor | None,
        span: int,
    ) -> Tensor:
        """Attends along the last axis of each sequence.

        Args:
            query: ``[B, K, S, L]``, float32, float64, or bfloat16 / float16 (computed in float32);
                the channels of a head lie together; any strides (slices and transposes of one
                ``[B, 2K + V, H, W]``).
            key: ``[B, K, S, L]``.
            value: ``[B, V, S, L]``; None leaves the content out of what is retrieved.
            scales: ``[T, h]``, float32 or float64, a row for each similarity term there is, in the
                order of the formula. The rows for the positions are there if `query_rows` and
                `key_rows` are; one row more means that q . k takes part too.
            query_rows: ``[span, K / h]`` rq, row ``j - i + span // 2``, shared by the heads.
            key_rows: ``[span, K / h]`` rk.
            value_rows: ``[span, V / h]`` rv; None leaves the position out of what is retrieved.
            span: odd, 1..2L - 1. Query i sees the keys j with |j - i| <= span // 2 that exist.

        Returns:
            ``[B, T' V, S, L]`` in the dtype of the query: the content's channels, then the
            position's (T' terms retrieved, 1 or 2); strides in the order of the query's.
        """
        ...


def lean_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    norm: BatchNorm,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
    heads: int,
    core: AttentionCore = chunked_attention,
) -> Tensor:
    """A `Formulation`, see axial_attention.py; equal to `reference_attention`.

    The statistics and the softmax are in float32 under autocast too.

    Args:
        query: ``[B, K, S, L]``.
        key: ``[B, K, S, L]``.
        value: ``[B, V, S, L]``.
        norm: of the similarities.
        query_rows: ``[span, K / h]``.
        key_rows: ``[span, K / h]``.
        value_rows: ``[span, V / h]``.
        span: odd, 1..2L - 1.
        heads: h.
        core: what computes the attention once the scales are known.
    """
    with full_precision(query):
        scales = similarity_scales(query, key, norm, query_rows, key_rows, span, heads)
        return core(query, key, value, scales, query_rows, key_rows, value_rows, span)


def similarity_scales(
    query: Tensor,
    key: Tensor,
    norm: BatchNorm,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    span: int,
    heads: int,
) -> Tensor:
    """What is left of the similarities' batch norm, ``[T, h]``; the arguments are the core's.

    In training the running statistics move.
    """
    variance = norm.running_var
    if norm.training:
        q, k = (widened(x).unflatten(1, (heads, -1)) for x in (query, key))
        terms = []
        if norm.weight.numel() > heads * ((query_rows is not None) + (key_rows is not None)):
            terms.append(content_moments(q, k, span))
        if query_rows is not None:
            terms.append(position_moments(q, query_rows))
        if key_rows is not None:
            terms.append(position_moments(k, key_rows.flip(0)))
        mean, variance = mean_and_variance(terms)
        norm.update(mean, variance)
    scales = norm.weight * torch.rsqrt(variance + norm.eps).to(norm.weight.dtype)
    # The bias has no effect; its gradient is 0 and not None, as ranks that average them need.
    return (scales + 0 * norm.bias).view(-1, heads)
