"""Decompression of Snappy blocks, which the index of a TensorFlow checkpoint may consist of.

Source: google/snappy, format_description.txt. An index has at most a few megabytes, so plain Python
is quick enough.
"""

from axialseg.checkpoints.tensorflow.protobuf_wire import read_varint

_LITERAL = 0


def decompress(data: bytes) -> bytes:
    """Decompresses one block of the raw (unframed) format.

    Raises:
        ValueError: The block is not of that format or is cut off.
    """
    size, position = read_varint(data, 0)
    output = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        if tag & 3 == _LITERAL:
            length, position = _literal_length(tag >> 2, data, position)
            literal = data[position : position + length]
            if len(literal) < length:
                raise ValueError("ends within a Snappy literal")
            output += literal
            position += length
        else:
            length, offset, position = _copy_range(tag, data, position)
            if not 0 < offset <= len(output):
                raise ValueError("holds a Snappy copy from outside its output")
            # A copy may run into what it writes itself: then the pattern repeats.
            pattern = output[len(output) - offset : len(output) - offset + length]
            output += (pattern * -(-length // len(pattern)))[:length]
        if len(output) > size:
            raise ValueError("decompresses to more than its declared size")
    if len(output) != size:
        raise ValueError("decompresses to less than its declared size")
    return bytes(output)


def _literal_length(code: int, data: bytes, position: int) -> tuple[int, int]:
    """Reads the length of a literal; codes 60..63 say that it follows in 1..4 bytes."""
    if code < 60:
        return code + 1, position
    length_bytes = code - 59
    return _little_endian(data, position, length_bytes) + 1, position + length_bytes


def _copy_range(tag: int, data: bytes, position: int) -> tuple[int, int, int]:
    """Reads the length of a copy, its distance back, and the position behind the element."""
    if tag & 3 == 1:
        low_byte = _little_endian(data, position, 1)
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | low_byte, position + 1
    offset_bytes = 2 if tag & 3 == 2 else 4
    offset = _little_endian(data, position, offset_bytes)
    return (tag >> 2) + 1, offset, position + offset_bytes


def _little_endian(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise ValueError("ends within a Snappy element")
    return int.from_bytes(data[position : position + size], "little")
