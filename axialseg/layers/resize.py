"""Resizing with aligned corners; the authors' models use no other kind.

Source: deeplab2 ``model/utils.py``. A size n at stride s becomes (n - 1) / s + 1, so that pixel
centres at the corners coincide at every resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x: ``[B, C, h, w]`` float -> ``[B, C, H, W]``; the same tensor when the size is the same."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def resize_offsets(offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes offsets ``[B, 2, h, w]`` (dy, dx in pixels) and their unit to ``[B, 2, H, W]``.

    Values are multiplied by (target - 1) / (source - 1) per axis before the interpolation.
    """
    h, w = offset.shape[-2:]
    scale = [(t - 1) / max(s - 1, 1) for t, s in zip(size, (h, w), strict=True)]
    return resize_bilinear(offset * offset.new_tensor(scale).view(1, 2, 1, 1), size)


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour with aligned corners; halves are rounded away from zero.

    x: ``[..., h, w]`` of any dtype -> ``[..., H, W]``. `F.interpolate` has no such mode.
    """
    rows = nearest_indices(x.shape[-2], size[0], x.device)
    columns = nearest_indices(x.shape[-1], size[1], x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def nearest_indices(source: int, target: int, device: torch.device | None = None) -> Tensor:
    """Source index of each of `target` positions, int64 ``[target]``.

    The position is computed in float32 as TensorFlow does, so that halves fall the same way.
    """
    if target == 1:
        return torch.zeros(1, dtype=torch.long, device=device)
    step = torch.tensor((source - 1) / (target - 1), dtype=torch.float32)
    position = torch.arange(target, dtype=torch.float32) * step
    indices = torch.floor(position + 0.5).long().clamp(max=source - 1)
    return indices.to(device)
