"""Named arrays in one file, mapped into memory: all processes of a machine share the same pages.

Layout: magic; length of the header (uint64, little endian) and checksum of all that follows
(CRC-32, uint32); the header, JSON; the arrays, each starting at a multiple of 64 bytes. A file is
either complete or refused.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialseg.machine.whole_file import whole_file

MAGIC = b"axialseg arrays 1\n"
PREFIX = struct.Struct("<QI")
HEADER = len(MAGIC) + PREFIX.size
ALIGNMENT = 64
KINDS = "biufU"  # no objects: reading a file must run nothing


class DamagedArrayFile(Exception):
    """The file is none of ours, incomplete or altered."""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Writes a file, at once or not at all: readers find the old one or the new one.

    Args:
        path: the file; one that is there is replaced, and stays as it was for who has it mapped.
        arrays: of numbers, booleans or strings.
        facts: what JSON can hold.

    Raises:
        OSError: the folder cannot be written.
    """
    table: dict[str, Any] = {}
    contents: list[Any] = []
    end = 0
    for name, values in arrays.items():
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        contents += [bytes(-end % ALIGNMENT), content]
        start = end + -end % ALIGNMENT
        table[name] = {"dtype": values.dtype.str, "shape": values.shape, "start": start}
        end = start + len(content)
    header = json.dumps({"facts": facts, "arrays": table}).encode()
    header += b" " * (-(HEADER + len(header)) % ALIGNMENT)
    checksum = 0
    for part in (header, *contents):
        checksum = zlib.crc32(part, checksum)

    with whole_file(path) as draft, draft.open("wb") as file:
        file.writelines([MAGIC, PREFIX.pack(len(header), checksum), header, *contents])
        file.flush()
        os.fsync(file.fileno())  # else a crash could leave the name without the content


def map_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts of a file; the arrays are read-only views of the mapped file.

    Raises:
        OSError: the file is missing or cannot be read.
        DamagedArrayFile: it is not what `write_arrays` wrote.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < HEADER:
            raise DamagedArrayFile("it is too short")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[: len(MAGIC)] != MAGIC:
        raise DamagedArrayFile("it has another format")
    length, checksum = PREFIX.unpack(content[len(MAGIC) : HEADER])
    if zlib.crc32(memoryview(content)[HEADER:]) != checksum:
        raise DamagedArrayFile("its checksum is wrong")
    first = HEADER + length
    header = json.loads(content[HEADER:first])
    arrays = {}
    for name, entry in header["arrays"].items():
        dtype, shape = np.dtype(entry["dtype"]), entry["shape"]
        if dtype.kind not in KINDS:
            raise DamagedArrayFile(f"it holds {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, dtype, count, first + entry["start"]).reshape(shape)
    return arrays, header["facts"]
