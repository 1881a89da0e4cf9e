"""Lean axial attention with a Triton kernel on CUDA; opt in by `+kernel=triton`.

The kernel has been compiled for GPUs and compared with the portable core in Triton's interpreter,
but has not run on a GPU yet. Once the tests with the mark `gpu` have passed on one, it becomes what
`AxialAttention` does on CUDA without being asked; benchmarks/README.md has the steps.
"""

import logging

import torch
from torch import Tensor

from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.chunked_attention import chunked_attention
from axialseg.layers.lean_axial_attention import AttentionCore, lean_attention

log = logging.getLogger(__name__)


def _kernel() -> AttentionCore | None:
    """The kernel, or None, said once, where it can not run."""
    reason = "no CUDA device"
    try:
        from axialseg.layers.triton_axial_attention import triton_attention
    except ImportError:
        reason = "Triton is not installed"
    else:
        if torch.cuda.is_available():
            return triton_attention
    log.warning("Axial attention runs in its portable form instead of the kernel: %s.", reason)
    return None


_KERNEL = _kernel()  # this module is imported only where a configuration asks for it


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    norm: BatchNorm,
    query_rows: Tensor | None,
    key_rows: Tensor | None,
    value_rows: Tensor | None,
    span: int,
    heads: int,
) -> Tensor:
    """A `Formulation`: `lean_attention` with the kernel as its core, where it can run.

    Arguments as of `lean_attention`. Tensors on a CPU and float64 take the portable core.
    """
    core: AttentionCore = chunked_attention
    if _KERNEL is not None and query.is_cuda and query.dtype != torch.float64:
        core = _KERNEL
    return lean_attention(
        query, key, value, norm, query_rows, key_rows, value_rows, span, heads, core
    )
