"""How much memory the C library takes from the kernel for a series of blocks; it is measured.

A process that keeps what it frees (`freed_memory`) holds more than its largest demand: a new block
must fit into a hole that an old one has left. How much more follows from the sizes and the order of
the blocks. So a process of its own makes and frees the series in the real allocator and never
touches the memory. That takes milliseconds and no memory for blocks of any size.

Small blocks matter too: sizes and strides of tensors, nodes of the autograd graph, Python's lists.
Each takes a few bytes of a hole, and a large block that the hole was made for does not fit any
more. The series has none of them, so some are put beside each of its blocks, in numbers, sizes and
lifetimes like those of traced steps. They are drawn by chance: a series is played several times.
"""

import ctypes
import math
import os
import random
import statistics
import subprocess
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from axialseg.machine.freed_memory import keep_freed_memory

ALIGNMENT = 64  # bytes, of PyTorch's blocks on a CPU
LOOKED_AT = 1 << 16  # smaller blocks hardly change the peak, and asking after each costs time
PLAYED = 7  # times
# Of the small blocks of traced training steps: bytes, each as often as here.
SMALL = (16, 24, 24, 24, 32, 40, 64, 96, 176, 176, 312)
TIED = 2  # that live as long as the block they were made with
PASSING = 4  # that live on their own
# Passing ones outlive at most this share of the series' blocks; each order of magnitude of lives is
# as likely as another.
LONGEST = 1 / 12


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
    """Most bytes that the allocator takes from the kernel for blocks that come and go; a median.

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


def _replays(events: "array[int]") -> Iterator[int]:
    """The series in processes of their own, which draw other small blocks."""
    for seed in range(PLAYED):
        receiver, sender = os.pipe()
        if os.fork() == 0:
            with os.fdopen(sender, "w") as file:
                file.write(str(_replay(events, random.Random(seed))))
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver) as file:
            answer = file.read()  # empty if it has failed
        os.wait()
        yield int(answer)


def _replay(events: "array[int]", draw: random.Random) -> int:
    """Makes and frees the blocks; raises where that is not possible."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Mallinfo2  # AttributeError: another C library
    aligned, malloc, free = library.posix_memalign, library.malloc, library.free
    aligned.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes = [ctypes.c_void_p]
    start = most = _taken(library)
    held: dict[int, list[Any]] = {}
    passing: dict[int, list[Any]] = {}  # by the number of blocks made when they end
    made, orders = 0, math.log2(max(2, LONGEST * sum(number > 0 for number in events[::2])))
    pairs = iter(events)
    for number, size in zip(pairs, pairs, strict=True):
        if number < 0:
            for old in held.pop(-number, ()):  # one from before the series is none of its own
                free(old)
            continue
        made += 1
        for old in passing.pop(made, ()):
            free(old)
        for _ in range(PASSING):
            end = made + 1 + int(2 ** draw.uniform(0, orders))
            passing.setdefault(end, []).append(malloc(draw.choice(SMALL)))
        block = ctypes.c_void_p()
        held[number] = [*(malloc(draw.choice(SMALL)) for _ in range(TIED)), block]
        if aligned(ctypes.byref(block), ALIGNMENT, max(size, 1)):
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
    print(int(statistics.median(_replays(series))))
