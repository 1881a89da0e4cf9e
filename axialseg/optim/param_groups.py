"""Which parameters share a learning rate and a weight decay.

Sources: no weight decay on biases and on the scales and shifts of norms, as in the recipes of
Panoptic-DeepLab (detectron2 ``WEIGHT_DECAY_NORM 0``) and most of the field; a smaller rate for a
pre-trained backbone as in MaX-DeepLab (deeplab2 ``backbone_learning_rate_multiplier``); rates that
fall layer by layer as in ELECTRA (Clark et al. 2020, sec. 3.1 and appendix A) and BEiT.
"""

from typing import Any

from torch import nn

BACKBONE = "backbone."


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    backbone_lr_multiplier: float = 1.0,
    decay_tables: bool = True,
    layer_decay: float = 1.0,
    normed_kernels_apart: bool = False,
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
        layer_decay: factor on the rate from each layer of the backbone to the one below, 0..1. The
            deepest layer has it once, the stem most often; see `backbone_layers`. Whatever is not
            part of the backbone has the base rate.
        normed_kernels_apart: the kernels of `normed_kernels` have groups of their own, marked
            ``"normed": True``, for `Muon`.

    Returns:
        Groups ``{"params", "lr", "weight_decay"}``, none of them empty, those at the base rate
        first, then by falling rate; one to four without `layer_decay` and normed kernels. Frozen
        parameters are in none.
    """
    layers = backbone_layers(net) if layer_decay != 1.0 else {}
    count = len(set(layers.values()))
    normed = normed_kernels(net) if normed_kernels_apart else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = backbone_lr_multiplier if name.startswith(BACKBONE) else 1.0
        if name in layers:
            multiplier *= layer_decay ** (count - layers[name])
        decays = parameter.ndim > 1 and (decay_tables or name.endswith(".weight"))
        decay = weight_decay if decays else 0.0
        groups.setdefault((multiplier, decay, name in normed), []).append(parameter)
    # The sort is stable: equal keys cannot occur, and the base rate (1.0) comes first.
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != 1.0, *(-v for v in item[0])))
    return [
        {"params": parameters, "lr": lr * multiplier, "weight_decay": decay}
        | ({"normed": True} if is_normed else {})
        for (multiplier, decay, is_normed), parameters in ordered
    ]


def normed_kernels(net: nn.Module) -> set[str]:
    """Names of the kernels whose length a norm takes out: of dense convolutions without a bias.

    A convolution without a bias has a norm behind it, here as in all of these papers. Depth-wise
    kernels are left out: a channel of theirs is no matrix.
    """
    return {
        f"{name}.weight"
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.bias is None and module.groups == 1
    }


def backbone_layers(net: nn.Module) -> dict[str, int]:
    """The layer of each parameter of the backbone, by the parameter's full name.

    A layer is a child with a number, as a residual block is, or a stage of MaX-DeepLab-L's stacked
    decoder; what belongs to none is a layer with all else of its child of the backbone, as the
    stem is. They count from 0 in the order in which the backbone has them.
    """
    numbers: dict[str, int] = {}
    layers = {}
    for name, _ in net.named_parameters():
        if name.startswith(BACKBONE):
            parts = name.removeprefix(BACKBONE).split(".")
            place = next((n for n, part in enumerate(parts) if part.isdigit()), 0)
            layer = ".".join(parts[: place + 1])
            layers[name] = numbers.setdefault(layer, len(numbers))
    return layers
