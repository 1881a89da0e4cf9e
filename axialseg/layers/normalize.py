"""From 8-bit RGB to what the networks see."""

from collections.abc import Sequence

import torch
from torch import Tensor

from axialseg.layers.full_precision import widened


def normalize_image(
    image: Tensor,
    valid: Tensor | None,
    mean: Sequence[float] = (127.5, 127.5, 127.5),
    std: Sequence[float] = (127.5, 127.5, 127.5),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Maps 0..255 to (image - mean) / std, by default -1..1, and padding to exactly 0.

    Source: deeplab2 ``model/deeplab.py`` (x / 127.5 - 1; padding pixels are 127.5 there).

    Args:
        image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
        valid: bool ``[B, H, W]``, False where the image was padded; None if nothing was.
        mean: of each channel, 0..255.
        std: of each channel.
        dtype: of the network, which a uint8 image gets.

    Returns:
        float ``[B, 3, H, W]``.
    """
    given = image.dtype
    x = widened(image.to(dtype)) if given == torch.uint8 else image
    if len({*mean}) == len({*std}) == 1 and mean[0] == std[0]:
        x = x / mean[0] - 1.0  # one pass less, and deeplab2's rounding
    else:
        x = (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)
    x = x.to(dtype) if given == torch.uint8 else x
    return x if valid is None else x * valid.unsqueeze(1).to(x.dtype)
