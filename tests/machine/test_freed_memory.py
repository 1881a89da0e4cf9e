"""A process keeps the large blocks that it frees, if it wants to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize("chosen", [False, True])
def test_freed_memory_is_kept(chosen: bool) -> None:
    """The second time, a large block needs no new pages; the user's own choice stands."""
    code = """
import ctypes, resource
from axialseg.machine.freed_memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**24)
    ctypes.memset(block, 1, 2**24)
    libc.free(ctypes.c_void_p(block))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    if chosen:
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (int(run.stdout) > 1000) == chosen
