"""Threads that wait for their next part of an operation."""

import os

SPINS = "10000"  # some 0.1 ms; the gaps between operations are shorter


def let_idle_threads_sleep() -> None:
    """Lets threads of PyTorch wait for work in a loop for a short time only, then sleep.

    GNU OpenMP's threads otherwise loop for milliseconds after each operation. Beside other work
    they then take the processor from the very thread that they wait for, and a training step of two
    threads takes 10 to 20 s in place of 0.25 s (`benchmarks/busy_machine.py`). It must be called
    before PyTorch is imported. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
