"""From the padded input back to the original image.

Source: deeplab2 ``model/utils.py`` (``undo_preprocessing``): crop to the resized image, then resize
with aligned corners; labels by nearest neighbour.
"""

from torch import Tensor

from axialseg.layers.resize import resize_bilinear, resize_nearest


def restore_labels(
    labels: Tensor, resized_size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """Labels at the original size.

    Args:
        labels: integer ``[H, W]``, predicted for the padded input; the image is at its top left.
        resized_size: (h, w) of the image in the input, without padding.
        original_size: (height, width) of the image in its file.

    Returns:
        The same type, ``[height, width]``.
    """
    height, width = resized_size
    return resize_nearest(labels[:height, :width], original_size)


def restore_values(
    values: Tensor, resized_size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """The same of numbers ``[C, H, W]`` -> ``[C, height, width]``; offsets keep their unit."""
    height, width = resized_size
    return resize_bilinear(values[None, :, :height, :width], original_size)[0]
