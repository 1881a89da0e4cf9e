"""What a file of weights holds, in the words of the network that it is to be loaded into."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from axialseg.errors import RunFailedError

BACKBONE = "backbone"  # child of every network
HEADS = "heads"  # child of MaX-DeepLab's


class StoredTensor(NamedTuple):
    """One tensor of a file that the network has under the same name.

    Attributes:
        file_name: Its name in the file.
        shape: Its shape in our layout.
        read: Reads it in our layout, on the CPU; raises `UserError` if it is damaged.
    """

    file_name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class StoredWeights(NamedTuple):
    """The content of a file.

    Attributes:
        source: The file, for messages.
        tensors: What the network has too, by our name; the shapes may still differ.
        unknown: Tensors of a network that this one has not: name in the file -> the part of the
            network that it would belong to (see `part_of`), None if there is no such part.
        skipped: What else the file holds: name -> what it is.
        steps: Optimiser steps behind the weights; 0 if the file does not tell.
    """

    source: str
    tensors: dict[str, StoredTensor]
    unknown: dict[str, str | None]
    skipped: dict[str, str]
    steps: int


def part_of(name: str) -> str:
    """Part of a network that is loaded as a whole: a child, or one of the backbone or the heads.

    Args:
        name: of a tensor, as in `net.state_dict()`.

    Returns:
        For instance ``semantic_head``, ``backbone.stem`` or ``backbone.stages``.
    """
    names = name.split(".")
    return ".".join(names[:2] if names[0] in (BACKBONE, HEADS) else names[:1])


def refuse_not_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights that hold NaN or infinity.

    Args:
        weights: name -> values.
        source: where they are from, for the message.

    Raises:
        RunFailedError: one does.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise RunFailedError(
                f"the weights of {source} are not finite ({name} holds NaN or infinity), so they "
                "can neither be evaluated nor trained on; take an earlier checkpoint"
            )
