"""Peaks of memory: tensors of known size are found, what was freed before is not."""

import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from axialseg.machine.peak_memory import ALLOCATOR, PeakMemory, how_measured, in_fresh_process

MEBIBYTE = 2**20


def peaks() -> list[int]:
    """Peaks of 64 MiB held beside 32 MiB, after 256 MiB that were freed before; and who did it."""
    torch.ones(256 * MEBIBYTE, dtype=torch.uint8)
    memory = PeakMemory(torch.device("cpu"))
    first = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
    second = torch.ones(32 * MEBIBYTE, dtype=torch.uint8)
    both = memory.bytes()
    del first, second
    later = memory.bytes()
    memory.reset()
    torch.ones(16 * MEBIBYTE, dtype=torch.uint8)
    assert {name: os.environ.get(name) for name in ALLOCATOR} == ALLOCATOR
    return [both, later, memory.bytes(), os.getpid()]


def die() -> None:
    os.kill(os.getpid(), 9)


def fail() -> None:
    raise KeyError("no such thing")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_finds_what_is_held_at_once() -> None:
    both, later, afresh, pid = in_fresh_process(peaks)
    assert pid != os.getpid()
    assert not set(ALLOCATOR) & set(os.environ)  # they are the other process's alone
    assert both == pytest.approx(96 * MEBIBYTE, abs=4 * MEBIBYTE)
    assert later == pytest.approx(96 * MEBIBYTE, abs=4 * MEBIBYTE)  # a peak does not fall
    assert afresh == pytest.approx(16 * MEBIBYTE, abs=4 * MEBIBYTE)
    assert "VmHWM" in how_measured(torch.device("cpu"))


def test_tells_when_the_process_is_killed() -> None:
    with pytest.raises(BrokenProcessPool):
        in_fresh_process(die)


def test_hands_exceptions_on() -> None:
    with pytest.raises(KeyError, match="no such thing"):
        in_fresh_process(fail)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_finds_what_the_gpu_holds_at_once() -> None:
    device = torch.device("cuda")
    memory = PeakMemory(device)
    torch.ones(64 * MEBIBYTE, dtype=torch.uint8, device=device)
    assert memory.bytes() == pytest.approx(64 * MEBIBYTE, abs=2 * MEBIBYTE)
