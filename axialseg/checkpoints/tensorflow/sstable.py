"""Reads sorted string tables, the files of LevelDB in which TensorFlow keeps a checkpoint's index.

A table is a row of blocks and a footer of 48 bytes. The footer points to the index block, whose
values point to the data blocks. In a block, each key shares a prefix with the one before it; five
bytes follow it: the kind of compression and a masked CRC-32C of the block and that byte.

Source: google/leveldb, doc/table_format.md, table/block_builder.cc, table/format.cc.
"""

from collections.abc import Iterator
from pathlib import Path

import cramjam

from axialseg.checkpoints.tensorflow.crc32c import masked_crc32c
from axialseg.checkpoints.tensorflow.protobuf_wire import read_varint
from axialseg.errors import UserError

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_NOT_COMPRESSED, _SNAPPY = 0, 1


def read_sstable(path: Path) -> dict[bytes, bytes]:
    """Reads all keys and values of a table, in its order, and checks every block's checksum.

    Raises:
        UserError: The file cannot be read, is not a table, or is cut off or damaged.
    """
    try:
        table = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if len(table) < _FOOTER_BYTES or not table.endswith(_MAGIC):
        raise UserError(
            f"{path} is not the index of a TensorFlow checkpoint or is cut off; fetch it again."
        )
    try:
        return dict(_entries_of_table(table))
    except ValueError as error:
        raise UserError(f"{path} is damaged (it {error}); fetch it again.") from error


def _entries_of_table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = table[-_FOOTER_BYTES:]
    meta_offset, position = read_varint(footer, 0)
    meta_size, position = read_varint(footer, position)
    index_offset, position = read_varint(footer, position)
    index_size, _ = read_varint(footer, position)
    _read_block(table, meta_offset, meta_size)  # empty in checkpoints; read for its checksum only
    for _, handle in _entries_of_block(_read_block(table, index_offset, index_size)):
        offset, position = read_varint(handle, 0)
        size, _ = read_varint(handle, position)
        yield from _entries_of_block(_read_block(table, offset, size))


def _read_block(table: bytes, offset: int, size: int) -> bytes:
    """Returns the content of a block whose checksum is right, decompressed."""
    end = offset + size
    if end + _TRAILER_BYTES > len(table) - _FOOTER_BYTES:
        raise ValueError("has a block that reaches beyond its end")
    stored = int.from_bytes(table[end + 1 : end + _TRAILER_BYTES], "little")
    if masked_crc32c(table[offset : end + 1]) != stored:
        raise ValueError(f"has a wrong checksum in the block at byte {offset}")
    compression = table[end]
    block = table[offset:end]
    if compression == _NOT_COMPRESSED:
        return block
    if compression == _SNAPPY:
        try:
            return bytes(cramjam.snappy.decompress_raw(block))
        except cramjam.DecompressionError as error:
            raise ValueError(f"has a damaged block at byte {offset} ({error})") from error
    raise ValueError(f"has a block of the unknown compression {compression}")


def _entries_of_block(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise ValueError("has a block without its restart points")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("has a block without its restart points")
    key = b""
    position = 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        value_size, position = read_varint(block, position)
        value_start = position + unshared
        if shared > len(key) or value_start + value_size > end:
            raise ValueError("has a block with an entry that reaches beyond its end")
        key = key[:shared] + block[position:value_start]
        position = value_start + value_size
        yield key, block[value_start:position]
