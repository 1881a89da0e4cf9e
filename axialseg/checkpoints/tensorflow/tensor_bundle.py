"""Reads TensorFlow checkpoints (the V2 form, "tensor bundle") without TensorFlow.

A checkpoint `<prefix>` is an index, `<prefix>.index`, and shards, `<prefix>.data-00000-of-00002`
and so on. The index is a sorted string table: the empty key holds the header, every other key a
tensor's type, shape, place and checksum. Nothing is returned whose checksum is wrong.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc and .h,
tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/framework/{types,tensor_shape}.proto.
Differences: tensors cut into slices (partitioned variables) and big-endian files are refused.
"""

import difflib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.checkpoints.tensorflow.crc32c import masked_crc32c
from axialseg.checkpoints.tensorflow.protobuf_wire import read_fields, read_varint
from axialseg.checkpoints.tensorflow.sstable import read_sstable
from axialseg.errors import UserError

VARIABLE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

_FORMAT_VERSION = 1
_HEADER_KEY = b""
_SLICE_KEY_START = b"\0"  # keys of slices are in an order-preserving binary code, not text
_MAX_DIMENSIONS = 254  # of a TensorFlow shape

# DataType number -> name; the names that numpy knows are stored just as numpy stores them.
_DTYPE_NAMES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_NUMPY_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(name) for name in _DTYPE_NAMES.values() if name not in ("string", "bfloat16")
} | {"string": np.dtype(object), "bfloat16": np.dtype(np.float32)}


class BundleEntry(NamedTuple):
    """Where and how one tensor is stored.

    Attributes:
        key: The full key in the checkpoint.
        dtype_name: The stored type, such as "bfloat16".
        shape: The tensor's shape.
        shard: Number of the data file, from 0.
        offset: First byte in that file.
        size: Number of bytes.
        masked_checksum: Masked CRC-32C of the content.
        is_sliced: Whether the content lies in slices under keys of their own.
    """

    key: str
    dtype_name: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    masked_checksum: int
    is_sliced: bool


class BundleVariables(NamedTuple):
    """The variables of a model in a checkpoint, and what else the checkpoint holds.

    Attributes:
        entries: Entry of each variable by its name, the key without `VARIABLE_SUFFIX`.
        skipped: Why each of the other keys is left aside, by full key.
    """

    entries: dict[str, BundleEntry]
    skipped: dict[str, str]


class TensorBundle:
    """One checkpoint, opened for reading; only its index is kept in memory.

    Args:
        prefix: Common part of the checkpoint's file names, see `find_prefix`.

    Raises:
        UserError: The files are not a checkpoint, or are incomplete or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._index_path = _with_suffix(prefix, ".index")
        table = read_sstable(self._index_path)
        try:
            self._shard_count = _parse_header(table.pop(_HEADER_KEY, None))
            self._entries = {
                key.decode(): _parse_entry(key.decode(), value)
                for key, value in table.items()
                if not key.startswith(_SLICE_KEY_START)
            }
            self._check_shards()
        except ValueError as error:
            raise UserError(
                f"{self._index_path} is damaged or of an unknown form (it {error}); fetch it again."
            ) from error

    def keys(self) -> list[str]:
        """Lists the full keys of all tensors, sorted."""
        return list(self._entries)

    def entry(self, key: str) -> BundleEntry:
        """Tells where and how a tensor is stored.

        Raises:
            UserError: There is no such tensor.
        """
        try:
            return self._entries[key]
        except KeyError:
            nearest = difflib.get_close_matches(key, self._entries, n=1, cutoff=0.0)
            hint = f"; the nearest key is {nearest[0]}" if nearest else ""
            raise UserError(f"The checkpoint {self.prefix} has no {key}{hint}.") from None

    def shape(self, key: str) -> tuple[int, ...]:
        """Tells the shape of a tensor."""
        return self.entry(key).shape

    def dtype(self, key: str) -> np.dtype:
        """Tells the dtype that `read` gives: float32 for bfloat16, object (bytes) for texts.

        Raises:
            UserError: There is no such tensor, or its type is none that can be read.
        """
        entry = self.entry(key)
        if entry.dtype_name not in _NUMPY_DTYPES:
            raise UserError(
                f"{key} in {self.prefix} is of the {entry.dtype_name}, which is not a number or "
                "text; leave it out."
            )
        return _NUMPY_DTYPES[entry.dtype_name]

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor and checks its checksum.

        Args:
            key: Full key of the tensor.

        Returns:
            The tensor with the shape `shape(key)` and the dtype `dtype(key)`, writable.

        Raises:
            UserError: There is no such tensor, it cannot be read, or its checksum is wrong.
        """
        entry = self.entry(key)
        dtype = self.dtype(key)
        if entry.is_sliced:
            raise UserError(
                f"{key} in {self.prefix} is cut into slices, which cannot be read here; save the "
                "checkpoint again with whole variables."
            )
        content = self._read_bytes(entry)
        if entry.dtype_name == "string":
            return self._decode_strings(entry, content)
        if masked_crc32c(content) != entry.masked_checksum:
            raise self._wrong_checksum(entry)
        if entry.dtype_name == "bfloat16":
            content = (content.view("<u2").astype(np.uint32) << 16).view(np.uint8)
        return content.view(dtype).reshape(entry.shape)

    def _shard_path(self, shard: int) -> Path:
        return _with_suffix(self.prefix, f".data-{shard:05d}-of-{self._shard_count:05d}")

    def _check_shards(self) -> None:
        """Makes sure that all shards exist and are long enough for the tensors in them."""
        needed = [0] * self._shard_count
        for entry in self._entries.values():
            if entry.shard >= len(needed):
                raise ValueError(f"puts {entry.key} into shard {entry.shard} of {len(needed)}")
            needed[entry.shard] = max(needed[entry.shard], entry.offset + entry.size)
        for shard, size in enumerate(needed):
            path = self._shard_path(shard)
            if not path.is_file():
                raise UserError(f"{path} is missing; put all shards beside {self._index_path}.")
            if path.stat().st_size < size:
                raise UserError(
                    f"{path} is cut off: it has {path.stat().st_size} of at least {size} bytes; "
                    "fetch it again."
                )

    def _read_bytes(self, entry: BundleEntry) -> NDArray[np.uint8]:
        path = self._shard_path(entry.shard)
        try:
            content = np.fromfile(path, dtype=np.uint8, count=entry.size, offset=entry.offset)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from error
        if content.size < entry.size:
            raise UserError(f"{path} is cut off within {entry.key}; fetch it again.")
        return content

    def _wrong_checksum(self, entry: BundleEntry) -> UserError:
        return UserError(
            f"The checksum of {entry.key} in {self._shard_path(entry.shard)} is wrong; "
            "fetch the checkpoint again."
        )

    def _decode_strings(self, entry: BundleEntry, content: NDArray[np.uint8]) -> np.ndarray:
        """Takes texts apart: their lengths, a checksum of the lengths, then the texts.

        Both checksums count a length as a number of four bytes, or eight if it needs them.
        """
        data = content.tobytes()
        lengths = []
        position = 0
        try:
            for _ in range(math.prod(entry.shape)):
                length, position = read_varint(data, position)
                lengths.append(length)
        except ValueError as error:
            raise self._wrong_checksum(entry) from error
        counted = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
        if masked_crc32c(counted + data[position:]) != entry.masked_checksum:
            raise self._wrong_checksum(entry)

        texts = np.empty(len(lengths), dtype=object)
        position += 4  # the checksum of the lengths is covered by that of the whole
        for i, length in enumerate(lengths):
            texts[i] = data[position : position + length]
            position += length
        return texts.reshape(entry.shape)


def variables(bundle: TensorBundle) -> BundleVariables:
    """Picks a model's variables out of a checkpoint, without texts and the optimiser's state."""
    entries = {}
    skipped = {}
    for entry in map(bundle.entry, bundle.keys()):
        reason = _reason_to_skip(entry)
        if reason:
            skipped[entry.key] = reason
        else:
            entries[entry.key.removesuffix(VARIABLE_SUFFIX)] = entry
    return BundleVariables(entries, skipped)


def _reason_to_skip(entry: BundleEntry) -> str | None:
    if "/.OPTIMIZER_SLOT/" in entry.key:
        return "optimiser slot"
    if entry.key.startswith(("optimizer/", "backbone_optimizer/")):
        return "optimiser state"
    if entry.key == "_CHECKPOINTABLE_OBJECT_GRAPH":
        return "graph of the saved objects"
    if entry.key == "save_counter" + VARIABLE_SUFFIX:
        return "number of the checkpoint"
    if not entry.key.endswith(VARIABLE_SUFFIX):
        return "not a variable of an object"
    if entry.dtype_name == "string":
        return "text"
    return None


def find_prefix(path: Path) -> Path:
    """Finds the prefix of the checkpoint that a path means.

    Args:
        path: A prefix, one of a checkpoint's files, or a folder. In a folder, the file `checkpoint`
            decides; without it, there must be one checkpoint only. It may lie in a folder within.

    Returns:
        The prefix, whose `.index` exists.

    Raises:
        UserError: There is no checkpoint, or there are several.
    """
    if path.is_dir():
        return _prefix_in_folder(path)
    prefix = Path(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path)))
    if _with_suffix(prefix, ".index").is_file():
        return prefix
    raise UserError(
        f"{path} is not a TensorFlow checkpoint: there is no {_with_suffix(prefix, '.index')}; "
        "give the checkpoint's .index file or its folder."
    )


def _prefix_in_folder(folder: Path) -> Path:
    indices = sorted(folder.glob("[!.]*.index")) or sorted(folder.rglob("[!.]*.index"))
    if not indices:
        raise UserError(f"{folder} holds no TensorFlow checkpoint: there is no .index file in it.")
    prefixes = [Path(str(path).removesuffix(".index")) for path in indices]
    latest = _latest_of_state_file(prefixes[0].parent / "checkpoint")
    if len({prefix.parent for prefix in prefixes}) == 1 and latest in prefixes:
        return latest
    if len(prefixes) > 1:
        names = ", ".join(str(prefix.relative_to(folder)) for prefix in prefixes)
        raise UserError(f"{folder} holds several checkpoints ({names}); give the path of one.")
    return prefixes[0]


def _latest_of_state_file(path: Path) -> Path | None:
    """Reads TensorFlow's note of its latest checkpoint, taken to lie beside it.

    Only the file's name counts, because folders are moved and the note may hold a full path.
    """
    if not path.is_file():
        return None
    state = path.read_text(encoding="utf-8", errors="replace")
    match = re.search(r'^model_checkpoint_path: "(.+)"', state, flags=re.MULTILINE)
    return path.parent / match[1].replace("\\", "/").rsplit("/", 1)[-1] if match else None


def _with_suffix(prefix: Path, suffix: str) -> Path:
    """Appends to the last part of a path, which may hold dots itself ("ckpt-4.5")."""
    return prefix.with_name(prefix.name + suffix)


def _parse_header(header: bytes | None) -> int:
    """Returns the number of shards from a BundleHeaderProto."""
    if header is None:
        raise ValueError("has no header")
    fields = dict(read_fields(header))
    if fields.get(2, 0) != 0:
        raise ValueError("says that the data are big-endian")
    version = dict(read_fields(_message(fields.get(3, b""))))
    if _integer(version.get(2, 0)) > _FORMAT_VERSION:
        raise ValueError("is of a later format version")
    shard_count = _integer(fields.get(1, 0))
    if not 0 < shard_count < 100_000:
        raise ValueError(f"says that there are {shard_count} shards")
    return shard_count


def _parse_entry(key: str, value: bytes) -> BundleEntry:
    """Reads a BundleEntryProto and checks that its size fits its shape."""
    fields = dict(read_fields(value))
    dtype_number = _integer(fields.get(1, 0))
    dtype_name = _DTYPE_NAMES.get(dtype_number, f"type number {dtype_number}")
    entry = BundleEntry(
        key=key,
        dtype_name=dtype_name,
        shape=_parse_shape(_message(fields.get(2, b""))),
        shard=_integer(fields.get(3, 0)),
        offset=_integer(fields.get(4, 0)),
        size=_integer(fields.get(5, 0)),
        masked_checksum=_integer(fields.get(6, 0)),
        is_sliced=7 in fields,
    )
    if dtype_name in _NUMPY_DTYPES and dtype_name != "string" and not entry.is_sliced:
        item_bytes = 2 if dtype_name == "bfloat16" else _NUMPY_DTYPES[dtype_name].itemsize
        if math.prod(entry.shape) * item_bytes != entry.size:
            raise ValueError(f"gives {key} a size that does not fit its shape")
    return entry


def _parse_shape(message: bytes) -> tuple[int, ...]:
    """Reads a TensorShapeProto."""
    dimensions = [_message(value) for number, value in read_fields(message) if number == 2]
    shape = tuple(_integer(dict(read_fields(dimension)).get(1, 0)) for dimension in dimensions)
    if len(shape) > _MAX_DIMENSIONS or any(size >= 1 << 63 for size in shape):
        raise ValueError("holds an impossible shape")
    return shape


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("holds a message in place of a number")
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("holds a number in place of a message")
    return value
