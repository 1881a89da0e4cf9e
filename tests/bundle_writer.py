"""Writes TensorFlow checkpoints of any form the reader must cope with, independently of it."""

from collections.abc import Mapping
from pathlib import Path

from numpy.typing import NDArray

DTYPE_NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "string": 7,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
MAGIC = bytes.fromhex("57fb808b247547db")


def bytewise_crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ 0x82F63B78 * (checksum & 1)
    return checksum ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    checksum = bytewise_crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message_field(field: int, message: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(message)) + message


def header(shards: int = 1, big_endian: bool = False, min_consumer: int = 0) -> bytes:
    version = number_field(1, 1) + (number_field(2, min_consumer) if min_consumer else b"")
    return (
        number_field(1, shards)
        + (number_field(2, 1) if big_endian else b"")
        + message_field(3, version)
    )


def entry(
    dtype_number: int,
    shape: tuple[int, ...],
    shard: int,
    offset: int,
    content: bytes,
    masked_checksum: bytes,
) -> bytes:
    dimensions = b"".join(message_field(2, number_field(1, size)) for size in shape)
    return (
        number_field(1, dtype_number)
        + message_field(2, dimensions)
        + number_field(3, shard)
        + number_field(4, offset)
        + number_field(5, len(content))
        + varint(6 << 3 | 5)
        + masked_checksum
    )


def stored_tensor(tensor: NDArray, dtype_name: str) -> tuple[bytes, bytes]:
    """The content in the data file and its masked checksum."""
    if dtype_name == "string":
        texts = list(tensor.reshape(-1))
        counted = b"".join(len(text).to_bytes(4, "little") for text in texts)
        tail = masked(counted) + b"".join(texts)
        return b"".join(varint(len(text)) for text in texts) + tail, masked(counted + tail)
    if dtype_name == "bfloat16":
        tensor = (tensor.astype("<f4").view("<u4") >> 16).astype("<u2")
    return tensor.tobytes(), masked(tensor.tobytes())


def snappy_compress(data: bytes) -> bytes:
    """Greedy, with all kinds of elements that the data give occasion for."""
    output = bytearray(varint(len(data)))
    seen: dict[bytes, int] = {}
    position = literal_start = 0

    def flush(end: int) -> None:
        length = end - literal_start - 1
        if length < 0:
            return
        if length < 60:
            output.append(length << 2)
        else:
            size = (length.bit_length() + 7) // 8
            output.append((59 + size) << 2)
            output.extend(length.to_bytes(size, "little"))
        output.extend(data[literal_start:end])

    while position + 4 <= len(data):
        start = seen.get(data[position : position + 4])
        seen[data[position : position + 4]] = position
        if start is None:
            position += 1
            continue
        flush(position)
        offset = position - start
        length = 4
        while length < 64 and data[start + length : start + length + 1] == (
            data[position + length : position + length + 1] or b"end"
        ):
            length += 1
        if length < 12 and offset < 2048:
            output.extend([(offset >> 8) << 5 | (length - 4) << 2 | 1, offset & 0xFF])
        elif offset < 4096:
            output.extend([(length - 1) << 2 | 2, *offset.to_bytes(2, "little")])
        else:
            output.extend([(length - 1) << 2 | 3, *offset.to_bytes(4, "little")])
        position += length
        literal_start = position
    flush(len(data))
    return bytes(output)


def block(rows: list[tuple[bytes, bytes]], restart_interval: int = 3) -> bytes:
    content = bytearray()
    restarts = []
    last_key = b""
    for i, (key, value) in enumerate(rows):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last_key)) and key[shared] == last_key[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        last_key = key
    restarts = restarts or [0]
    for offset in [*restarts, len(restarts)]:
        content += offset.to_bytes(4, "little")
    return bytes(content)


def sstable(rows: Mapping[bytes, bytes], rows_per_block: int = 1000, snappy: bool = False) -> bytes:
    table = bytearray()

    def append_block(content: bytes) -> bytes:
        kind = b"\1" if snappy else b"\0"
        stored = snappy_compress(content) if snappy else content
        handle = varint(len(table)) + varint(len(stored))
        table.extend(stored + kind + masked(stored + kind))
        return handle

    ordered = sorted(rows.items())
    index = []
    for start in range(0, len(ordered), rows_per_block):
        part = ordered[start : start + rows_per_block]
        index.append((part[-1][0] + b"~", append_block(block(part))))
    footer = append_block(block([])) + append_block(block(index, restart_interval=1))
    return bytes(table) + footer.ljust(40, b"\0") + MAGIC


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, NDArray],
    dtype_names: Mapping[str, str] | None = None,
    shards: int = 1,
    rows_per_block: int = 1000,
    snappy: bool = False,
    extra_rows: Mapping[bytes, bytes] | None = None,
) -> None:
    """Writes tensors in turn to the shards; dtype_names says where numpy's name is not meant."""
    data = [bytearray() for _ in range(shards)]
    rows = {b"": header(shards)}
    for i, (key, tensor) in enumerate(tensors.items()):
        name = (dtype_names or {}).get(key, tensor.dtype.name)
        content, checksum = stored_tensor(tensor, name)
        shard = i % shards
        number = DTYPE_NUMBERS[name]
        offset = len(data[shard])
        rows[key.encode()] = entry(number, tensor.shape, shard, offset, content, checksum)
        data[shard] += content
    rows |= extra_rows or {}
    Path(f"{prefix}.index").write_bytes(sstable(rows, rows_per_block, snappy))
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
