"""Which parameters share a learning rate and a weight decay.

Sources: no weight decay on biases and on the scales and shifts of norms, as in the recipes of
Panoptic-DeepLab (detectron2 ``WEIGHT_DECAY_NORM 0``) and most of the field; a smaller rate for a
pre-trained backbone as in MaX-DeepLab (deeplab2 ``backbone_learning_rate_multiplier``).
"""

from typing import Any

from torch import nn


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    backbone_lr_multiplier: float = 1.0,
    decay_tables: bool = True,
) -> list[dict[str, Any]]:
    """Groups for an optimiser.

    Args:
        net: network whose backbone is its child `backbone`.
        lr: base learning rate.
        weight_decay: decay of kernels and tables; vectors (biases, scales and shifts of norms)
            get none.
        backbone_lr_multiplier: factor on the rate of the backbone. MaX-DeepLab's memory,
            transformers and further stages have not been pre-trained and so have the base rate
            (deeplab2 finds them by the words transformer, extra and memory_feature in their names).
        decay_tables: whether tables decay too: relative positions, a memory, cluster centres.
            deeplab2's AdamW does not decay them.

    Returns:
        One to four groups ``{"params", "lr", "weight_decay"}``, none of them empty, those at the
        base rate first. Frozen parameters are in none.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = backbone_lr_multiplier if name.startswith("backbone.") else 1.0
        decays = parameter.ndim > 1 and (decay_tables or name.endswith(".weight"))
        decay = weight_decay if decays else 0.0
        groups.setdefault((multiplier, decay), []).append(parameter)
    # The sort is stable: equal keys cannot occur, and the base rate (1.0) comes first.
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != 1.0, -item[0][1]))
    return [
        {"params": parameters, "lr": lr * multiplier, "weight_decay": decay}
        for (multiplier, decay), parameters in ordered
    ]
