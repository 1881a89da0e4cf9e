"""From 8-bit RGB to what the networks see."""

import torch
from torch import Tensor


def normalize_image(image: Tensor, valid: Tensor | None) -> Tensor:
    """Maps 0..255 to -1..1 and padding to exactly 0.

    Source: deeplab2 ``model/deeplab.py`` (x / 127.5 - 1; padding pixels are 127.5 there).

    Args:
        image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
        valid: bool ``[B, H, W]``, False where the image was padded; None if nothing was.

    Returns:
        float ``[B, 3, H, W]``.
    """
    x = image.to(torch.float32 if image.dtype == torch.uint8 else image.dtype) / 127.5 - 1.0
    return x if valid is None else x * valid.unsqueeze(1).to(x.dtype)
