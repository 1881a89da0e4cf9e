"""The wire format of protocol buffers: just enough to read a message without its compiled schema.

Source: Protocol Buffers documentation, "Encoding". The variable-length integers are those of
LevelDB's tables and of Snappy, too.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads an unsigned integer of seven bits a byte, the lowest bits first.

    Args:
        data: The bytes to read from.
        position: Where the integer begins.

    Returns:
        The integer, 0..2**64 - 1, and the position behind it.

    Raises:
        ValueError: The data end within the integer, or it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("ends within an integer")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise ValueError("holds an integer of more than 64 bits")


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the number and value of each field, in the order of the message.

    Nested messages and texts come as bytes, all numbers as unsigned integers.

    Raises:
        ValueError: The message ends within a field or holds a field of an unknown kind.
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            number, position = read_varint(message, position)
            yield tag >> 3, number
            continue
        if kind == _LENGTH_DELIMITED:
            length, position = read_varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"holds a field of the unknown kind {kind}")
        value = message[position : position + length]
        if len(value) < length:
            raise ValueError("ends within a field")
        position += length
        yield tag >> 3, value if kind == _LENGTH_DELIMITED else int.from_bytes(value, "little")
