"""Which slot is compared with which mask of the ground truth.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.2; Kuhn 1955 (the Hungarian
method); deeplab2 ``model/loss/max_deeplab_loss.py``. Difference: the original fills the matrix
up to a square with +-999 in float32, where differences below 6e-5 are lost. Here it is exact.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match_masks(cost: Tensor, valid: Tensor) -> Tensor:
    """Assigns masks to different slots at the lowest total cost.

    Args:
        cost: ``[B, M, N]``, of mask and slot; there is no gradient through the matching.
        valid: bool ``[B, M]``, rows that stand for a mask.

    Returns:
        int64 ``[B, M]``, slot of each mask; -1 where the row is no mask, and where there are more
        masks than slots and this one is left over. A sample with a cost that is not finite has no
        matching, all its rows are -1.
    """
    costs = cost.detach().float().cpu().numpy()
    rows = valid.cpu().numpy()
    slots = np.full(rows.shape, -1, np.int64)
    for index, (values, is_mask) in enumerate(zip(costs, rows, strict=True)):
        masks = np.flatnonzero(is_mask)
        if np.isfinite(values[masks]).all():
            chosen, matched = linear_sum_assignment(values[masks])
            slots[index, masks[chosen]] = matched
    return torch.from_numpy(slots).to(cost.device)
