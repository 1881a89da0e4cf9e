"""Averaging per-pixel losses over the hardest pixels.

Source: deeplab2 ``model/loss/base_loss.py``; Yang et al. 2019, "DeeperLab" (hard pixel mining).
"""

import torch
from torch import Tensor


def average_top_k(losses: Tensor, share: float) -> Tensor:
    """Mean over the largest losses of each sample, counting only those that are not zero.

    Args:
        losses: ``[B, P]``, per-pixel losses >= 0; ignored pixels are 0.
        share: part of the P pixels to keep, in (0, 1]; k = round(share * P), halves to even.

    Returns:
        ``[B]``; 0 for a sample without a loss above 0.
    """
    pixels = losses.shape[1]
    k = int(torch.round(torch.tensor(share, dtype=torch.float32) * pixels))
    kept = losses if k >= pixels else losses.topk(k, dim=1, sorted=False).values
    return kept.sum(1) / (kept != 0).sum(1).clamp(min=1)
