"""A network with what one must know to use it."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from axialseg.datasets.image_classes import ImageClasses
from axialseg.panoptic.categories import Categories


@dataclass(frozen=True)
class LoadedModel:
    """A trained network: what `axialseg.load` returns.

    Attributes:
        name: of the model, as in `conf/model/`.
        net: the network with its trained weights, on the CPU, in evaluation mode. It maps an image
            ``[B, 3, H, W]`` in 0..255 to raw heads.
        categories: the classes that it was trained with.
        config: plain `model` (its `postprocess` too) and `data` (its `eval_transform` too) that
            belong to the weights.
        step: optimiser steps behind the weights; 0 if unknown.
    """

    name: str
    net: nn.Module
    categories: Categories | ImageClasses
    config: dict[str, Any]
    step: int
