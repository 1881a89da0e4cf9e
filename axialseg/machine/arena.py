"""How much memory the C library takes from the kernel for a series of blocks; it is measured.

A process that keeps what it frees (`freed_memory`) holds more than its largest demand: a new block
must fit into a hole that an old one has left. How much more follows from the sizes and the order of
the blocks. So a process of its own makes and frees the series in the real allocator and never
touches the memory. That takes milliseconds and no memory for blocks of any size.
"""

import ctypes
import subprocess
import sys
from array import array

from axialseg.machine.freed_memory import keep_freed_memory

ALIGNMENT = 64  # bytes, of PyTorch's blocks on a CPU
LOOKED_AT = 1 << 16  # smaller blocks hardly change the peak, and asking after each costs time


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`, from its malloc.h; bytes but for the numbers of blocks."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def arena_bytes(events: "array[int]") -> int | None:
    """Most bytes that the allocator has taken from the kernel for blocks that come and go.

    Args:
        events: pairs in the order of time: number of a block (from 1) and its bytes; at its end
            the negative number and 0.

    Returns:
        None where the allocator does not tell (it is not glibc 2.33 or later), or refuses to
        promise so much.
    """
    command = [sys.executable, "-m", "axialseg.machine.arena"]
    try:
        done = subprocess.run(command, input=events.tobytes(), capture_output=True, check=True)
        return int(done.stdout)
    except (subprocess.CalledProcessError, OSError, ValueError):
        return None


def _replay(events: "array[int]") -> int:
    """Makes and frees the blocks; raises where that is not possible."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Mallinfo2  # AttributeError: another C library
    allocate, free = library.posix_memalign, library.free
    allocate.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    start = most = _taken(library)
    held: dict[int, ctypes.c_void_p] = {}
    pairs = iter(events)
    for number, size in zip(pairs, pairs, strict=True):
        if number < 0:
            free(held.pop(-number, None))  # one from before the series is none of its own
            continue
        block = held[number] = ctypes.c_void_p()
        if allocate(ctypes.byref(block), ALIGNMENT, max(size, 1)):
            raise MemoryError
        if size >= LOOKED_AT:
            most = max(most, _taken(library))
    return max(most, _taken(library)) - start


def _taken(library: ctypes.CDLL) -> int:
    """Bytes that are taken now: the growth of the heap, and blocks that are mapped one by one."""
    facts = library.mallinfo2()
    return int(facts.arena + facts.hblkhd)


if __name__ == "__main__":
    keep_freed_memory()
    series = array("q")
    series.frombytes(sys.stdin.buffer.read())
    print(_replay(series))
