"""Post-processings as graphs for other runtimes: what their forms have in common.

The eager forms branch on how much they find, and keep lists of that length. In a graph lists have a
fixed length with a mask of what is valid, and loops run as often as the numbers say
(`torch.while_loop`, which ONNX has too). Memory is a few maps of the image's size.

Shapes: B images, H and W of the image, M entries of a list, centres or slots.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop


class GraphMaps(NamedTuple):
    """What a graph with its post-processing inside returns.

    Attributes:
        panoptic: int32 ``[B, H, W]``, class id * CLASS_DIVISOR + instance.
        classes: int32 ``[B, H, W]``, class ids; not filtered by confidence or area.
        class_score: float32 ``[B, H, W]``, probability of the pixel's class.
        instance_score: float32 ``[B, H, W]``, score of the pixel's instance.
    """

    panoptic: Tensor
    classes: Tensor
    class_score: Tensor
    instance_score: Tensor


def repeated(
    count: Tensor, step: Callable[..., tuple[Tensor, ...]], *start: Tensor
) -> list[Tensor]:
    """Runs a step for the numbers 0..count - 1; it maps number and state to the next ones."""

    def goes_on(number: Tensor, *_: Tensor) -> Tensor:
        return number < count

    number = torch.zeros_like(count)
    state: tuple[Tensor, ...] = while_loop(goes_on, step, (number, *start))
    return list(state[1:])


def column(values: Tensor, number: Tensor) -> Tensor:
    """``[B, M]`` and a number ``[]`` -> that column, ``[B, 1, 1]``."""
    return values.index_select(1, number.view(1))[:, :, None]


def looked_up(values: Tensor, index: Tensor) -> Tensor:
    """``[B, M]`` at the places ``[B, H, W]``."""
    return values.gather(1, index.flatten(1)).unflatten(1, index.shape[1:])


def counted(index: Tensor, where: Tensor, length: int) -> Tensor:
    """How often each of 0..length - 1 occurs where it is asked for; int64 ``[B, length]``."""
    counts = torch.zeros_like(index.flatten(1)[:, :1]).expand(-1, length)
    return counts.scatter_add(1, index.flatten(1), where.flatten(1).long())
