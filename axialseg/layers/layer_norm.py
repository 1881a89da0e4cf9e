"""Layer norm over the channels of a feature map.

Source: Ba et al. 2016, "Layer Normalization"; Keras ``LayerNormalization`` with the epsilon of
deeplab2's pixel decoder.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Normalises each position of ``[B, C, H, W]`` over its channels.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> the same shape."""
        channels_last = F.layer_norm(
            x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return channels_last.movedim(-1, 1)
