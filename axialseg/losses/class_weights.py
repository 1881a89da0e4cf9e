"""How much each class counts in a loss."""

from collections.abc import Sequence

import torch
from torch import Tensor


def weight_table(
    class_weights: Sequence[float] | None, class_ids: Sequence[int], ignore_class: int
) -> Tensor | None:
    """The weights by class id.

    Args:
        class_weights: one for each class, in ascending order of class ids; None counts all alike.
        class_ids: of the classes that are learnt, in any order.
        ignore_class: class id of void, whose weight is 1 (it has no loss).

    Returns:
        float32 ``[largest id + 1]``, or None.

    Raises:
        ValueError: there are not as many weights as classes, or one is negative.
    """
    if class_weights is None:
        return None
    if len(class_weights) != len(class_ids) or min(class_weights) < 0:
        raise ValueError(f"{len(class_ids)} class weights of 0 or more are needed: {class_weights}")
    table = torch.ones(max(*class_ids, ignore_class) + 1)
    table[sorted(class_ids)] = torch.tensor(class_weights, dtype=torch.float32)
    return table
