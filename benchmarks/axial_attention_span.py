"""Peak memory and time of axial attention with a span, beside global attention.

    python benchmarks/axial_attention_span.py [--quick]

The layer is that of Axial-DeepLab-L's first stage (8 heads, 64 key and 128 value channels) over 32
columns, forward and backward in training. Each measurement is a process of its own, because a peak
is one of a process; time is the CPU time of its one thread (on a GPU wall clock), the median of the
passes. The textbook form masks its whole map, whatever the span.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from axialseg.costs.benchmark import machine
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention
from axialseg.machine.peak_memory import PeakMemory, how_measured, in_fresh_process

COLUMNS = 32
SPANS = (None, 129, 65, 33)
LONGEST_TEXTBOOK = 257  # the next one would need some 10 GB
MEBIBYTE = 2**20


def measure(
    kind: type[AxialAttention], length: int, span: int | None, training: bool, device: str
) -> tuple[int, float]:
    """Peak bytes and median seconds of forward (and backward) passes, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = kind(128, 64, 128, "height", span=span).train(training).to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter

    def run(x: torch.Tensor) -> float:
        start = clock()
        with torch.set_grad_enabled(training):
            y = layer(x)
            if training:
                y.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    run(torch.randn(1, 128, 5, 1, device=device, requires_grad=training))
    x = torch.randn(1, 128, length, COLUMNS, device=device, requires_grad=training)
    memory = PeakMemory(torch.device(device))
    run(x)
    peak = memory.bytes()
    return peak, statistics.median(run(x) for _ in range(3))


def main() -> None:
    """Prints one line per length, mode, form and span."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="length 257 only")
    quick = parser.parse_args().quick
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    print(f"{machine(device)}; {COLUMNS} columns")
    print(f"memory: {how_measured(torch.device(device))}")
    for length in (257,) if quick else (129, 257, 513):
        rows = [(AxialAttention, span) for span in SPANS]
        if length <= LONGEST_TEXTBOOK:
            rows += [(TextbookAxialAttention, span) for span in (None, 65)]
        for mode in ("evaluation", "training"):
            title = f"L = {length}, {mode}"
            print(f"\n{title:<30}{'MiB':>8}{'x global':>10}{'ms':>9}{'x global':>10}")
            first = None
            for kind, span in rows:
                training = mode == "training"
                result = in_fresh_process(measure, kind, length, span, training, device)
                first = first or result
                peak, seconds = result
                name = f"{'ours' if kind is AxialAttention else 'textbook'}, "
                name += f"span {span}" if span else "global"
                print(
                    f"  {name:<28}{peak / MEBIBYTE:8.0f}{peak / first[0]:10.2f}"
                    f"{1e3 * seconds:9.0f}{seconds / first[1]:10.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
