"""What a loss gives to training: the sum that is minimised, and its terms for the curves."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Losses(NamedTuple):
    """The loss of each image of a batch.

    Attributes:
        total: float32 ``[B]``, the weighted sum of the terms; its mean is minimised.
        terms: name -> float32 ``[B]``, the terms before their weights.
    """

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def weighted(cls, terms: dict[str, Tensor], weights: Mapping[str, float]) -> "Losses":
        """The terms, and their sum with a weight for each name."""
        weighted = [weights[name] * term for name, term in terms.items()]
        return cls(torch.stack(weighted).sum(0), terms)
