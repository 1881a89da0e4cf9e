"""CRC-32C (Castagnoli) checksums in numpy, fast enough for checkpoints of several gigabytes.

A CRC without its first and last inversion is linear over GF(2): the remainder of a polynomial whose
coefficients are the bits. Three consequences are used here. Zeros in front change nothing. The
checksum of two parts put one after the other is the first one's, moved over as many zero bytes as
the second part is long, XOR the second one's. And where x^a = x^b + x^c + 1, anything may be
replaced by its copies at three later places, which shortens long data by XOR alone; what is left
is cut into 8-byte words, whose checksums are looked up at once and then merged pairwise.

Source: RFC 3720, sec. 12.1 and appendix B.4 (polynomial, test values); Russell 2024, "Chorba: A
novel CRC32 implementation" (the XOR folding); leveldb util/crc32c.h (the masked form that LevelDB
and TensorFlow store).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # bit-reversed, because bytes are fed in lowest bit first
_MASK_DELTA = 0xA282EAD8
_CHUNK_BYTES = 1 << 22  # small enough for the working copy to stay in the processor's cache

# x^5685 + x^1362 + x^426 + 1 is a multiple of the polynomial (found by search), hence so is its
# 64th power, in which the exponents count whole words. No multiple below degree 5244 has so few
# terms; this one leaves a wide gap below its first exponent, which is the length of one XOR.
_FOLD_EXPONENTS = (5685, 1362, 426)

_Checksums = NDArray[np.uint32]


def crc32c(data: bytes | memoryview | NDArray[np.uint8]) -> int:
    """Computes the CRC-32C of some bytes.

    Args:
        data: The bytes; an array must be contiguous and one-dimensional.

    Returns:
        The checksum, 0..2**32 - 1.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    checksum = 0xFFFFFFFF
    for start in range(0, buffer.size, _CHUNK_BYTES):
        chunk = buffer[start : start + _CHUNK_BYTES]
        checksum = _move_over_zeros(checksum, chunk.size) ^ _linear_checksum(chunk)
    return checksum ^ 0xFFFFFFFF


def mask_checksum(checksum: int) -> int:
    """Turns a checksum into the form that is stored beside data which may itself hold checksums."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _linear_checksum(chunk: NDArray[np.uint8]) -> int:
    """Computes the checksum without the inversions. chunk: uint8 [n]."""
    words = _fold(_pad_in_front(chunk, -(-chunk.size // 8)).view("<u8"))
    log2_words = (words.size - 1).bit_length()
    halves = _pad_in_front(words.view(np.uint8), 1 << log2_words).view("<u2").reshape(-1, 4)

    tables = _word_tables()
    checksums = np.take(tables[0], halves[:, 0])  # [words]
    for position in range(1, 4):
        checksums ^= np.take(tables[position], halves[:, position])
    for level in range(log2_words):
        table = _zeros_table(level + 3)  # 2**level words of 2**3 bytes
        checksums = _move(checksums[0::2], table) ^ checksums[1::2]
    return int(checksums[0])


def _pad_in_front(data: NDArray[np.uint8], words: int) -> NDArray[np.uint8]:
    """Copies data to the end of `words` 8-byte words that begin with zeros."""
    padded = np.zeros(8 * words, dtype=np.uint8)
    padded[padded.size - data.size :] = data
    return padded


def _fold(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Shortens words [n] to at most 5685 with the same linear checksum; overwrites its argument."""
    first, *others = _FOLD_EXPONENTS
    distances = [first - exponent for exponent in (*others, 0)]
    surplus = max(words.size - first, 0)
    for start in range(0, surplus, distances[0]):
        block = words[start : min(start + distances[0], surplus)]
        for distance in distances:
            words[start + distance : start + distance + block.size] ^= block
    return words[surplus:]


def _move_over_zeros(checksum: int, zero_bytes: int) -> int:
    """Moves one checksum over any number of zero bytes."""
    moved = np.array([checksum], dtype=np.uint32)
    for bit in range(zero_bytes.bit_length()):
        if zero_bytes >> bit & 1:
            moved = _move(moved, _zeros_table(bit))
    return int(moved[0])


def _move(checksums: _Checksums, table: _Checksums) -> _Checksums:
    """Moves checksums [...] over the zero bytes that a table [4, 256] stands for."""
    moved = np.take(table[0], checksums & np.uint32(0xFF))
    for position in range(1, 4):
        byte = (checksums >> np.uint32(8 * position)) & np.uint32(0xFF)
        moved ^= np.take(table[position], byte)
    return moved


@cache
def _byte_table() -> _Checksums:
    """Gives the linear checksum of every single byte. [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return table


@cache
def _zeros_table(log2_zero_bytes: int) -> _Checksums:
    """Gives, for each byte of a checksum, where 2**log2_zero_bytes zero bytes move it. [4, 256]."""
    if log2_zero_bytes == 0:
        byte = np.arange(256, dtype=np.uint32)
        return np.stack([_byte_table(), byte, byte << np.uint32(8), byte << np.uint32(16)])
    half = _zeros_table(log2_zero_bytes - 1)
    return _move(half, half)


@cache
def _word_tables() -> _Checksums:
    """Gives the linear checksum of two bytes at each of the four places in a word. [4, 65536]."""
    byte = _byte_table()
    last = (byte[:, None] ^ _move(byte, _zeros_table(0))[None, :]).reshape(-1)
    tables = [last]
    for _ in range(3):
        tables.append(_move(tables[-1], _zeros_table(1)))
    return np.stack(tables[::-1])
