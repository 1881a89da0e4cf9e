import numpy as np
import pytest
from bundle_writer import masked

from axialseg.checkpoints.tensorflow.crc32c import masked_crc32c


def unmasked(stored: int) -> int:
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_values_of_rfc_3720(data: bytes, expected: int) -> None:
    assert unmasked(masked_crc32c(data)) == expected


def test_arrays_and_bytes_agree_with_the_bytewise_form() -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    assert masked_crc32c(data) == masked_crc32c(data.tobytes())
    assert masked_crc32c(data).to_bytes(4, "little") == masked(data.tobytes())
