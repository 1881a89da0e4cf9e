"""Position-sensitive axial attention without an L x L map in memory.

What is the same for all keys of a query does not change the softmax. So of the similarities' batch
norms only the scales matter, gamma / sqrt(variance + eps), and the variances follow from Gram
matrices. docs/axial_attention.md has the derivation.

Shapes: those of axial_inputs.py; T similarity terms.
"""

from typing import Protocol

from torch import Tensor

from axialseg.layers.axial_inputs import AxialInputs
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.chunked_attention import chunked_attention
from axialseg.layers.full_precision import full_precision, widened
from axialseg.layers.similarity_statistics import (
    content_moments,
    norm_scales,
    position_moments,
)


class AttentionCore(Protocol):
    """Softmax attention with scaled similarity terms; differentiable in every tensor, once.

    logits[i, j] = scales[0] q_i . k_j + scales[1] q_i . rq_{j-i} + scales[2] k_j . rk_{j-i}
    content_i    = sum_j w[i, j] v_j,   position_i = sum_j w[i, j] rv_{j-i},   w = softmax_j(logits)
    """

    def __call__(self, inputs: AxialInputs, scales: Tensor) -> Tensor:
        """Attends along the last axis of each sequence.

        Args:
            inputs: of the layer; half precision is computed in float32.
            scales: ``[T, h]``, float32 or float64, a row for each similarity term that is used, in
                the order of the formula.

        Returns:
            ``[B, T' V, S, L]`` in the dtype of the query: the T' terms that are retrieved, content
            before position; the strides are in the order of the query's.
        """
        ...


def lean_attention(
    inputs: AxialInputs, norm: BatchNorm, core: AttentionCore = chunked_attention
) -> Tensor:
    """A `Formulation`, see axial_attention.py; equal to `reference_attention`.

    The statistics and the softmax are in float32 under autocast too.

    Args:
        inputs: of the layer.
        norm: of the similarities.
        core: what computes the attention once the scales are known.
    """
    with full_precision(inputs.query):
        return core(inputs, similarity_scales(inputs, norm))


def similarity_scales(inputs: AxialInputs, norm: BatchNorm) -> Tensor:
    """What is left of the similarities' batch norm, ``[T, h]``.

    In training the running statistics move.
    """
    terms = []
    if norm.training:
        query, key = (
            widened(x).unflatten(1, (inputs.heads, -1)) for x in (inputs.query, inputs.key)
        )
        if inputs.uses_content:
            terms.append(content_moments(query, key, inputs.span))
        if inputs.query_rows is not None:
            terms.append(position_moments(query, inputs.query_rows))
        if inputs.key_rows is not None:
            terms.append(position_moments(key, inputs.key_rows.flip(0)))
    return norm_scales(norm, inputs.heads, terms)
