"""Weights of any checkpoint into a network: to start training from, or to evaluate.

Everything is compared and read before the network is touched, so that it is never half loaded.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from axialseg.backbones.backbone import PretrainedBackbone
from axialseg.checkpoints.load_report import LoadReport, compare, listed
from axialseg.checkpoints.sources import opened_weights
from axialseg.checkpoints.stored_weights import BACKBONE, refuse_not_finite
from axialseg.errors import UserError


def load_initial_weights(
    net: nn.Module, source: str | Path, backbone_only: bool = False
) -> LoadReport:
    """Starts a network from a checkpoint of the same architecture.

    The checkpoint may hold the whole network or the backbone alone. Last layers for another number
    of classes, and parts that it does not hold, keep their initialisation.

    Args:
        net: Network whose backbone is its child `backbone`.
        source: See `opened_weights`.
        backbone_only: Take nothing else, whatever the checkpoint holds.

    Returns:
        What was loaded, what was not, and why.

    Raises:
        UserError: The checkpoint does not exist, is damaged, or is of another architecture.
        RunFailedError: Its weights are not finite.
    """
    own = _shapes(net)
    wanted = {n: s for n, s in own.items() if not backbone_only or n.startswith(f"{BACKBONE}.")}
    with opened_weights(source, net) as stored:
        report = compare(wanted, stored)
        weights = {name: stored.tensors[name].read() for name in report.loaded}
        refuse_not_finite(weights, stored.source)
        _copy(net, weights)
    others = {name: "only the backbone was asked for" for name in own if name not in wanted}
    return report._replace(initialised=report.initialised | others)


def load_pretrained_backbone(net: nn.Module) -> str | None:
    """Starts the backbone of a network from weights of its own, if it is configured so.

    Returns:
        What was loaded; None if nothing.

    Raises:
        UserError: there are none, or they cannot be fetched.
    """
    backbone = getattr(net, BACKBONE)
    if not isinstance(backbone, PretrainedBackbone) or not backbone.pretrained:
        return None
    try:
        return backbone.load_pretrained()
    except ValueError as error:
        raise UserError(str(error)) from error


def load_trained_weights(net: nn.Module, source: str | Path) -> int:
    """Loads a checkpoint of exactly this network.

    Args:
        net: The network.
        source: See `opened_weights`.

    Returns:
        Optimiser steps behind the weights; 0 if the checkpoint does not tell.

    Raises:
        UserError: As of `load_initial_weights`, or anything is missing or is not of this network.
    """
    own = _shapes(net)
    with opened_weights(source, net) as stored:
        report = compare(own, stored)
        wrong = [*report.initialised, *stored.unknown]
        if wrong:
            raise UserError(
                f"{stored.source} is of another model or data set: {listed(wrong)} differ"
            )
        weights = {name: stored.tensors[name].read() for name in own}
        refuse_not_finite(weights, stored.source)
        _copy(net, weights)
        return stored.steps


def _shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


@torch.no_grad()
def _copy(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    net.load_state_dict(weights, strict=False)
