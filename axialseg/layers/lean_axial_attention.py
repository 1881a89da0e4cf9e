"""Position-sensitive axial attention without an L x L map in memory.

The mathematics is in docs/axial_attention.md. Shapes: B batch, S sequences of an image (its columns
or rows), L length of the attended axis, h heads, K and V channels of all heads' keys and values.
"""

from typing import Protocol

import torch
from torch import Tensor


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


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scales: Tensor,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
) -> Tensor:
    """An `AttentionCore` that holds all L x L maps."""
    terms, heads = scales.shape
    length = query.shape[-1]
    position = torch.arange(length, device=query.device)
    offset = position - position[:, None]
    row = offset.clamp(-(span // 2), span // 2) + span // 2
    dtype, wide = query.dtype, scales.dtype
    q, k = (x.to(wide).unflatten(1, (heads, -1)) for x in (query, key))
    similarities = []
    if terms > (query_rows is not None) + (key_rows is not None):
        similarities.append(torch.einsum("bhdsi,bhdsj->bhsij", q, k))
    if query_rows is not None:
        similarities.append(torch.einsum("bhdsi,ijd->bhsij", q, query_rows.to(wide)[row]))
    if key_rows is not None:
        similarities.append(torch.einsum("bhdsj,ijd->bhsij", k, key_rows.to(wide)[row]))
    logits = torch.einsum("th,tbhsij->bhsij", scales, torch.stack(similarities))
    weights = logits.masked_fill(offset.abs() > span // 2, -torch.inf).softmax(-1)
    retrieved = []
    if value is not None:
        v = value.to(wide).unflatten(1, (heads, -1))
        retrieved.append(torch.einsum("bhsij,bhdsj->bhdsi", weights, v))
    if value_rows is not None:
        retrieved.append(torch.einsum("bhsij,ijd->bhdsi", weights, value_rows.to(wide)[row]))
    return torch.cat([r.flatten(1, 2) for r in retrieved], dim=1).to(dtype)
