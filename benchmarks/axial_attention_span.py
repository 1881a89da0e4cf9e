"""Peak memory and time of axial attention with a span, beside global attention.

    python benchmarks/axial_attention_span.py [--quick]

Each measurement is a process of its own, because a peak is the highest of a process. On a CPU it is
the growth of the resident memory, on a GPU what the allocator has handed out at most. `pairs` are
the query-key pairs that the blocks hold, as a share of the L * L pairs of global attention: the map
that is never in memory. The layer is that of Axial-DeepLab-L's first stage (8 heads, 64 key and 128
value channels) over 32 columns, forward and backward in training.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from axialseg.layers.axial_attention import AxialAttention

COLUMNS = 32
MEBIBYTE = 2**20


def resident_peak() -> int:
    """Bytes, the highest so far."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(length: int, span: int | None, training: bool, device: str) -> None:
    """Prints peak bytes, seconds and the pairs held of one forward (and backward) pass."""
    torch.manual_seed(0)
    layer = AxialAttention(128, 64, 128, "height", span=span).train(training).to(device)
    pairs: list[int] = []
    layer.similarity_norm.register_forward_pre_hook(
        lambda _, inputs: pairs.append(inputs[0][0, 0].numel())
    )
    warm = torch.randn(1, 128, 5, 1, device=device, requires_grad=training)
    x = torch.randn(1, 128, length, COLUMNS, device=device, requires_grad=training)
    for image in (warm, x):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            before = resident_peak()
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            y = layer(image)
            if training:
                y.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        after = torch.cuda.max_memory_allocated() if device == "cuda" else resident_peak()
    print(after - before, seconds, pairs[-1])


def main() -> None:
    """Prints one line per length and span."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="length 257 only")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    if arguments.measure:
        length, span, mode = arguments.measure
        measure(int(length), int(span) or None, mode == "training", device)
        return
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"{name} ({device}), torch {torch.__version__}, {COLUMNS} columns")
    for length in (257,) if arguments.quick else (129, 257, 513):
        for mode in ("evaluation", "training"):
            print(f"\nL = {length}, {mode:<22}MiB      ms   x global   pairs / (L * L)")
            reference = None
            for span in (0, 129, 65, 33):
                command = [sys.executable, __file__, "--measure", str(length), str(span), mode]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                peak, seconds, pairs = (float(number) for number in output.split())
                reference = reference or peak
                print(
                    f"  {f'span {span}' if span else 'global':<28}{peak / MEBIBYTE:9.0f}"
                    f"{1e3 * seconds:8.0f}{peak / reference:11.2f}{pairs / length**2:18.2f}"
                )


if __name__ == "__main__":
    main()
