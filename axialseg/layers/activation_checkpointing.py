"""Residual blocks that keep no activation: the backward pass computes them again.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost". The second computation
draws the same random numbers as the first. It does not move the running statistics of the batch
norms, because they would move twice in a step.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.residual_block import ResidualBlock


class CheckpointedBlock(ResidualBlock):
    """A `ResidualBlock` that keeps only its input in training; weights and numbers are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` before activation -> ``[B, C_out, H', W']`` before activation."""
        if not self.training or not torch.is_grad_enabled():
            return super().forward(x)
        return _recomputed(self, x)


# The compiler cannot trace the contexts; it compiles what lies between the blocks.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _recomputed(block: ResidualBlock, x: Tensor) -> Tensor:
    """The output of the block; only `x` is kept for the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(block)

    run = partial(ResidualBlock.forward, block)
    output: Tensor = checkpoint(run, x, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block, no batch norm below `module` moves its running statistics."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
