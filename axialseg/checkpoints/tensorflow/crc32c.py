"""CRC-32C checksums in the form that LevelDB and TensorFlow store.

Source: leveldb util/crc32c.h.
"""

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """The CRC-32C of some bytes, masked, because the bytes may themselves hold checksums.

    Args:
        data: The bytes; an array must be contiguous.

    Returns:
        The masked checksum, 0..2**32 - 1.
    """
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF
