"""Large blocks of memory that a process frees and wants again in its next step."""

import ctypes
import os
import sys

# Options of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Of the second one; glibc before 2.35 takes no more than 32 MiB.
MMAP_THRESHOLDS = (2**30, 2**25)


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, instead of giving it back to the kernel.

    glibc maps large blocks one by one and unmaps them when they are freed; the kernel then clears
    every page of the next one, a tenth of the time of a training step or of a loader. What a
    process holds is then its largest demand so far. Other C libraries, and a choice made by
    `MALLOC_` variables, are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS)  # 0 is a refusal
