"""Drop path (stochastic depth) and its schedules.

Source: deeplab2 ``model/layers/drop_path.py``.
"""

import math

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch per sample in training and rescales what is kept.

    Args:
        keep_probability: chance that a sample's branch is kept, in (0, 1].
    """

    def __init__(self, keep_probability: float = 1.0) -> None:
        super().__init__()
        self.keep_probability = keep_probability

    def forward(self, branch: Tensor) -> Tensor:
        """branch: ``[B, ...]`` -> the same shape; unchanged in evaluation."""
        keep = self.keep_probability
        if not self.training or keep == 1.0:
            return branch
        shape = [branch.shape[0]] + [1] * (branch.ndim - 1)
        mask = torch.floor(keep + torch.rand(shape, device=branch.device)) / keep
        return branch * mask.to(branch.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"keep_probability={self.keep_probability}"


def linear_keep_probability(keep_probability: float, stride: int) -> float:
    """Keep probability that falls linearly from 1 at stride 2 to `keep_probability` at stride 32.

    Args:
        keep_probability: value at stride 32.
        stride: nominal stride before the block, a power of two.
    """
    return 1.0 - (1.0 - keep_probability) * (math.log2(stride) - 1.0) / 4.0
