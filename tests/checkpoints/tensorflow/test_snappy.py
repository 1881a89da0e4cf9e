import numpy as np
import pytest
from bundle_writer import snappy_compress

from axialseg.checkpoints.tensorflow.snappy import decompress


@pytest.mark.parametrize(
    ("compressed", "expected"),
    [
        ("00", b""),
        ("03 08 616263", b"abc"),
        # literal "ab", copy of 8 bytes from 2 back: one-byte, two-byte and four-byte offset
        ("0a 04 6162 11 02", b"ab" * 5),
        ("0a 04 6162 1e 0200", b"ab" * 5),
        ("0a 04 6162 1f 02000000", b"ab" * 5),
        # a copy that does not overlap, with the high bits of the offset used
        ("ac02 f4 2701" + "61" * 296 + "21 28", b"a" * 300),
    ],
)
def test_hand_made_streams(compressed: str, expected: bytes) -> None:
    data = bytes.fromhex(compressed)
    assert decompress(data) == expected


def test_round_trip_through_a_compressor() -> None:
    rng = np.random.default_rng(0)
    words = [rng.bytes(n) for n in (3, 9, 40, 70, 300, 70_000)]
    data = b"".join(words[i] for i in rng.integers(0, 5, 200)) + words[5] * 2
    compressed = snappy_compress(data)
    assert len(compressed) < len(data) * 0.8
    assert decompress(compressed) == data


@pytest.mark.parametrize(
    "compressed",
    [
        "",  # no size
        "03",  # nothing behind the size
        "03 08 6162",  # literal cut off
        "04 08 616263",  # less than declared
        "02 08 616263",  # more than declared
        "08 0c 61626364 01",  # copy cut off
        "08 0c 61626364 01 00",  # distance 0
        "08 0c 61626364 01 05",  # from before the output
        "08 f0",  # length of the literal cut off
        "ffffffffffffffffffff01",  # size of more than 64 bits
    ],
)
def test_damage_is_refused(compressed: str) -> None:
    with pytest.raises(ValueError, match=r"ends within|declared|outside|64 bits"):
        decompress(bytes.fromhex(compressed))
