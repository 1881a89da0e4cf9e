"""The activations of the authors' networks, by name."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Activation = Literal["relu", "gelu"]
# GELU is the exact one, by erf. The approximation by tanh is off by 1e-3 of the largest feature.
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name, elementwise on tensors of any shape.

    Raises:
        ValueError: there is no such activation.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"activation knows {' and '.join(_FUNCTIONS)}, but not {name!r}")
    return _FUNCTIONS[name]
