"""Axial attention in training: ours beside the textbook form, in time, memory and precision.

    python benchmarks/axial_attention.py [--quick | --precision] [--keep-freed-memory]

The layer is that of Axial-ResNet: 8 heads, over the columns of one square image, forward and
backward. Times are CPU time of one thread in one process, in which both take turns; medians. Peaks
of memory are of a process each, above what it held before; weights and input are not in them.

`axial-attention` is the package of that name on PyPI, its attention along one axis: plain, that is
without positions and batch norms and with 1 / sqrt(d), so it does less; its queries and keys are as
deep as its values.

--keep-freed-memory does what this project's commands do on a CPU: the process keeps large blocks
that it frees. It helps the textbook form most, whose maps the kernel then clears once and not in
every step.

--precision prints how far float32 is from float64, where the mean of the similarities is some
standard deviations: the largest error of an output, a gradient or a statistic, relative to the
largest value; the median of nine inputs.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.machine.peak_memory import PeakMemory, how_measured, in_fresh_process

# The peer has this file's name, and this folder would come before it on the path.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

FORMS: dict[str, type[AxialAttention]] = {
    "ours": AxialAttention,
    "textbook": TextbookAxialAttention,
}
# Channels of queries and keys, and of values, over 8 heads; length of the axis, least ratio of
# time and of memory that is asked for.
CASES = ((32, 64, 65), (256, 512, 65), (32, 64, 129), (32, 64, 257))
PEER = "axial-attention"
MEBIBYTE = 2**20


def forms() -> list[str]:
    """Ours first; a peer that is not installed is left out."""
    is_there = importlib.util.find_spec("axial_attention") is not None
    return [*FORMS, *([PEER] if is_there else [])]


def layer(form: str, keys: int, values: int, span: int | None = None) -> nn.Module:
    """The layer, over columns."""
    torch.manual_seed(0)
    if form == PEER:
        from axial_attention.axial_attention import PermuteToFrom, SelfAttention

        return PermuteToFrom((0, 3, 2, 1), SelfAttention(values, heads=8, dim_heads=values // 8))
    return FORMS[form](values, keys, values, "height", span=span)


def step(module: nn.Module, x: Tensor) -> None:
    """Forward and backward."""
    y = module(x)
    y.backward(torch.ones_like(y))


def peak(form: str, keys: int, values: int, length: int, columns: int) -> int:
    """Bytes; runs in a process of its own."""
    torch.set_num_threads(1)
    module = layer(form, keys, values)
    step(module, torch.randn(1, values, 5, 5, requires_grad=True))
    x = torch.randn(1, values, length, columns, requires_grad=True)
    memory = PeakMemory(torch.device("cpu"))
    step(module, x)
    return memory.bytes()


def seconds(keys: int, values: int, length: int, columns: int, rounds: int) -> dict[str, float]:
    """Median CPU time of each form, taken in turns."""
    layers = {form: layer(form, keys, values) for form in forms()}
    x = torch.randn(1, values, length, columns, requires_grad=True)
    times: dict[str, list[float]] = {form: [] for form in layers}
    for number in range(rounds + 1):
        for form, module in layers.items():
            start = time.process_time()
            step(module, x)
            if number:  # the first one warms up
                times[form].append(time.process_time() - start)
    return {form: statistics.median(values) for form, values in times.items()}


def precision(ratio: float, seed: int, length: int = 65) -> dict[str, float]:
    """Largest relative error of each form in float32, whose keys and queries are far from 0."""
    results: dict[str, dict[str, Tensor]] = {}
    for form, dtype in (
        ("truth", torch.float64),
        ("ours", torch.float32),
        ("textbook", torch.float32),
    ):
        module = layer("textbook" if form == "truth" else form, 64, 128)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # q . k has the mean `ratio` times its deviation, which comes from the shifts' size.
            module.qkv.norm.bias[:128] = 1.4 * ratio / 8**0.5
            module.qkv.norm.bias[:128] *= torch.randn(64, generator=generator).sign().repeat(2)
            module.similarity_norm.momentum = 1.0
        module.to(dtype)
        x = torch.randn(1, 128, length, 8, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        y = module(x)
        (y * weight.to(dtype)).sum().backward()
        named = {name: p.grad for name, p in module.named_parameters()}
        named |= {"y": y.detach(), "x": x.grad, **dict(module.named_buffers())}
        results[form] = {n: v for n, v in named.items() if n != "similarity_norm.bias"}
    truth = results.pop("truth")
    parts = {"outputs": ("y",), "statistics": ("similarity_norm.running_var",)}
    parts["gradients"] = tuple(n for n in truth if not n.startswith("y") and "running" not in n)
    return {
        f"{part}, {form}": max(
            float((values[n] - truth[n]).abs().max() / truth[n].abs().max()) for n in names
        )
        for part, names in parts.items()
        for form, values in results.items()
    }


def print_precision() -> None:
    """One line per ratio."""
    print(f"{'mean / deviation':<18}", end="")
    header = True
    for ratio in (0, 2, 6, 20, 200):
        inputs = [precision(ratio, seed) for seed in range(9)]
        errors = {name: statistics.median(x[name] for x in inputs) for name in inputs[0]}
        if header:
            print("".join(f"{name:>22}" for name in errors))
            header = False
        print(f"{ratio:<18}" + "".join(f"{error:22.1e}" for error in errors.values()))


def main() -> None:
    """Prints one line per case and form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="fewer rounds and columns")
    group.add_argument("--precision", action="store_true", help="errors of float32")
    parser.add_argument("--keep-freed-memory", action="store_true", help="as the commands do")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep_freed_memory:
        keep_freed_memory()
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, 1 thread, "
        f"torch {torch.__version__}"
    )
    if arguments.precision:
        print_precision()
        return
    print(f"memory: {how_measured(torch.device('cpu'))}")
    if PEER not in forms():
        print(f"{PEER} is not installed: pip install -c constraints.txt -e '.[bench]'")
    for keys, values, length in CASES:
        columns = min(length, 33) if arguments.quick else length
        rounds = max(3, (3 if arguments.quick else 9) * 65**2 // length**2)
        case = (keys, values, length, columns)
        peaks = {form: in_fresh_process(peak, form, *case) for form in forms()}
        times = seconds(*case, rounds)
        print(
            f"\nL = {length}, {columns} columns, {keys // 8} key and {values // 8} value channels "
            f"per head, {rounds} rounds\n{'':<17}{'ms':>8}{'x ours':>9}{'MiB':>10}{'x ours':>9}"
        )
        for form in peaks:
            print(
                f"  {form:<15}{1e3 * times[form]:8.0f}{times[form] / times['ours']:9.2f}"
                f"{peaks[form] / MEBIBYTE:10.0f}{peaks[form] / peaks['ours']:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
