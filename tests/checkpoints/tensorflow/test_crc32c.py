import numpy as np
import pytest
from bundle_writer import bytewise_crc32c, masked

from axialseg.checkpoints.tensorflow import crc32c as module
from axialseg.checkpoints.tensorflow.crc32c import crc32c, mask_checksum


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
    assert crc32c(data) == expected


@pytest.mark.parametrize("size", [*range(1, 40), 63, 64, 65, 1001, 45479, 45480, 45481, 120_000])
def test_any_size_agrees_with_the_bytewise_form(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bytewise_crc32c(data)


def test_chunks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    whole = crc32c(data)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 999)
    assert crc32c(data) == whole == bytewise_crc32c(data.tobytes())


def test_every_flipped_bit_is_seen() -> None:
    data = np.zeros(60_000, dtype=np.uint8)
    right = crc32c(data)
    for position in (0, 7, 8, 14_519, 30_000, 59_999):
        data[position] ^= 0x10
        assert crc32c(data) != right
        data[position] ^= 0x10


def test_argument_is_not_changed() -> None:
    data = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    before = data.copy()
    crc32c(data)
    np.testing.assert_array_equal(data, before)


def test_mask() -> None:
    assert mask_checksum(crc32c(b"foo")).to_bytes(4, "little") == masked(b"foo")
    assert mask_checksum(0) == 0xA282EAD8
