"""Weight initialisers as Keras defines them (deeplab2's defaults)."""

import math

from torch import Tensor, nn

# Standard deviation of a unit normal that is cut at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


def he_normal_(weight: Tensor) -> Tensor:
    """Truncated He normal over the fan-in of a convolution kernel ``[out, in, ...]``."""
    fan_in = weight[0].numel()
    std = math.sqrt(2.0 / fan_in) / _TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def truncated_normal_(weight: Tensor, std: float) -> Tensor:
    """Normal of width `std`; beyond two `std` it is drawn again (Keras ``TruncatedNormal``)."""
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
