"""Keeps parts of a network in float32 that half precision would make wrong."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves the device of `x` alone."""
    # Autocast knows no meta device, where nothing is computed anyway.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """float32 for half precision; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
