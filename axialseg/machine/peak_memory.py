"""The most memory that a piece of work holds at once, measured.

On CUDA it is what PyTorch's allocator has handed out. On a CPU it is the growth of the process's
resident memory, which knows no tensors: what was freed may still be resident. So the work gets a
process of its own, whose C library gives freed blocks back at once.
"""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

# glibc: blocks of 64 KiB or more are mapped one by one, and unmapped when they are freed.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class PeakMemory:
    """Counts above what is held at its construction.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()
        self._before = self._peak()

    def reset(self) -> None:
        """Lets the peak fall to what is held now."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """The peak since the last reset, above what was held at the construction."""
        return self._peak() - self._before

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _resident_peak()


def how_measured(device: torch.device) -> str:
    """What a table says about its numbers."""
    if device.type == "cuda":
        return "peak of PyTorch's CUDA allocator"
    if Path("/proc/self/clear_refs").exists():
        return "peak resident memory (VmHWM) of a process of its own, above what it held before"
    return "peak resident memory (ru_maxrss) of a process of its own, above its peak before"


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Runs a function in a new process, started for it, which returns freed memory at once.

    Args:
        function: of a module's top level.
        arguments: picklable.

    Returns:
        What the function returns.

    Raises:
        BrokenProcessPool: the process was killed, as when the machine has no memory left.
        Exception: whatever the function raises.
    """
    before = {name: os.environ.get(name) for name in ALLOCATOR}
    os.environ.update(ALLOCATOR)
    try:
        # Spawned, not forked: a fork would hold its parent's memory.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _resident_peak() -> int:
    """Bytes: the highest resident memory of this process so far."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
