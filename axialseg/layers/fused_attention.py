"""Lean axial attention with a Triton kernel on CUDA; opt in by `model/attention=triton`.

The kernel has been compiled for GPUs and compared with the portable core in Triton's interpreter,
but has not run on a GPU yet. Once the tests with the mark `gpu` have passed on one, it becomes what
`AxialAttention` does on CUDA without being asked; benchmarks/README.md has the steps.
"""

import importlib.util
import logging

import torch
from torch import Tensor

from axialseg.layers.axial_inputs import AxialInputs
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.chunked_attention import chunked_attention
from axialseg.layers.lean_axial_attention import AttentionCore, lean_attention

log = logging.getLogger(__name__)


def _missing() -> str | None:
    """What the kernel needs and does not have here; None if nothing is missing."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


# Asked once, as this module is imported only where a configuration asks for the kernel.
_REASON = _missing()
if _REASON is not None:
    log.warning("Axial attention runs in its portable form, without the kernel: %s.", _REASON)
else:
    from axialseg.layers.triton_axial_attention import fits, triton_attention


def fused_attention(inputs: AxialInputs, norm: BatchNorm) -> Tensor:
    """A `Formulation`: `lean_attention` with the kernel as its core, where it can run.

    Tensors on a CPU, float64 and very deep heads take the portable core.
    """
    core: AttentionCore = chunked_attention
    on_gpu = inputs.query.is_cuda and inputs.query.dtype != torch.float64
    if _REASON is None and on_gpu and fits(*inputs.depths):
        core = triton_attention
    return lean_attention(inputs, norm, core)
