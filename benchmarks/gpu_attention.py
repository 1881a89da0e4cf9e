"""The attention layer on a GPU: kernel, portable core and textbook form, eager and compiled.

    python benchmarks/gpu_attention.py [--grid] [--terabytes 4.8 --teraflops 495]

Forward and backward of the layer of Axial-ResNet (8 heads, height axis) over a batch of square
features, in float32, TensorFloat-32 and bfloat16: median time, peak memory above what was held
before, ratios to the eager textbook form, and the error of the input's gradient against float64.
All forms take turns in one process; peaks are of a process each. --grid adds other sizes.

`roofline` is the time that memory (TB/s) or arithmetic (TFLOP/s, of the tensor cores in
TensorFloat-32) would take at least, as a share of the time measured: queries, keys, values, outputs
and their gradients moved once, and the products of forward and backward counted once.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from axialseg.costs.benchmark import machine, take_turns
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.fused_attention import fused_attention
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention
from axialseg.machine.peak_memory import PeakMemory, how_measured, in_fresh_process

HEADS = 8
SECONDS = 3.0
MEBIBYTE = 2**20
FORMS: dict[str, tuple[Callable[..., AxialAttention], bool]] = {  # layer, and whether compiled
    "textbook": (TextbookAxialAttention, False),
    "textbook, compiled": (TextbookAxialAttention, True),
    "portable": (AxialAttention, False),
    "portable, compiled": (AxialAttention, True),
    "kernel": (partial(AxialAttention, formulation=fused_attention), False),
    "kernel, compiled": (partial(AxialAttention, formulation=fused_attention), True),
}
PRECISIONS = ("float32", "tensor-float-32", "bfloat16")


class Case(NamedTuple):
    """Width of the block (its values' channels), length and batch."""

    planes: int
    length: int
    batch: int


CLAIM = Case(128, 129, 8)
GRID = [
    Case(planes, length, batch)
    for planes in (64, 128, 256, 512)
    for length in (65, 129, 257)
    for batch in (1, 8)
    if planes * length**2 * batch <= 8 * 128 * 257**2
]


class Work:
    """A layer and its input, ready to run forward and backward.

    Args:
        form: a key of `FORMS`.
        case: its size.
        precision: one of `PRECISIONS`.
        device: where.
        dtype: of weights and input.
    """

    def __init__(
        self,
        form: str,
        case: Case,
        precision: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        make, is_compiled = FORMS[form]
        torch.manual_seed(0)
        layer = make(case.planes, case.planes // 2, case.planes, "height", heads=HEADS)
        self.layer: nn.Module = layer.to(device, dtype)
        if is_compiled:
            self.layer.compile()
        shape = (case.batch, case.planes, case.length, case.length)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.x = x.to(device, dtype).requires_grad_()
        self.precision = precision

    def __call__(self) -> Tensor:
        """The gradient of the input."""
        matmul = "highest" if self.precision == "float32" else "high"
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = matmul == "high"
        is_half = self.precision == "bfloat16"
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=is_half):
            y = self.layer(self.x)
        self.layer.zero_grad()
        (gradient,) = torch.autograd.grad(y.float().square().mean(), self.x)
        return gradient


def peak(form: str, case: Case, precision: str, device: torch.device) -> int:
    """Bytes above weights and input; runs in a process of its own."""
    work = Work(form, case, precision, device)
    work()
    memory = PeakMemory(device)
    work()
    return memory.bytes()


def bound(case: Case, terabytes: float, teraflops: float) -> float:
    """Seconds that the layer's attention takes at least."""
    pixels = case.batch * case.length**2
    keys, values = case.planes // 2, case.planes
    # Forward reads q, k, v and writes two outputs; backward reads all of it and the outputs'
    # gradients, and writes those of q, k, v.
    moved = 4 * pixels * (3 * (2 * keys + values) + 3 * 2 * values)
    # Three similarities and two retrievals; their gradients and the weights again cost thrice that.
    products = 2 * pixels * case.length * (3 * keys + 2 * values) * 4
    return max(moved / (terabytes * 1e12), products / (teraflops * 1e12))


def compare(case: Case, device: torch.device, terabytes: float, teraflops: float) -> None:
    """Prints one line per form and precision."""
    print(
        f"\nplanes {case.planes} (depth {case.planes // 2 // HEADS} and {case.planes // HEADS}), "
        f"L = {case.length}, batch {case.batch}"
    )
    print(f"{'':<38}{'ms':>9}{'ratio':>8}{'MiB':>9}{'ratio':>8}{'roofline':>10}{'error':>10}")
    truth = None
    if case.planes * case.length**2 * case.batch <= 128 * 129**2 * 8:
        truth = Work("portable", case, "float32", device, torch.float64)()
    for precision in PRECISIONS:
        works = {form: Work(form, case, precision, device) for form in FORMS}
        found = {form: statistics.median(t) if t else None for form, t in take_turns(
            works, SECONDS, device).items()}  # fmt: skip
        errors = {form: _error(work, truth) for form, work in works.items() if found[form]}
        works.clear()
        peaks = {form: in_fresh_process(peak, form, case, precision, device) for form in found}
        for form, seconds in found.items():
            name = f"  {precision}, {form}"
            if seconds is None:
                print(f"{name:<38}{'out of memory':>17}")
                continue
            base, share = found["textbook"], bound(case, terabytes, teraflops) / seconds
            ratio = f"{base / seconds:8.2f}" if base else f"{'':8}"
            print(
                f"{name:<38}{1e3 * seconds:9.2f}{ratio}{peaks[form] / MEBIBYTE:9.0f}"
                f"{peaks['textbook'] / peaks[form]:8.2f}{share:10.0%}{errors[form]:>10}",
                flush=True,
            )


def _error(work: Work, truth: Tensor | None) -> str:
    """Of the input's gradient, relative to its largest value."""
    if truth is None:
        return ""
    return f"{float((work() - truth).abs().max() / truth.abs().max()):.1e}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", action="store_true", help="other widths and lengths too")
    parser.add_argument("--terabytes", type=float, default=4.8, help="memory, TB/s (H200: 4.8)")
    parser.add_argument("--teraflops", type=float, default=495.0, help="TFLOP/s (H200: 495)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA device, and there is none.", file=sys.stderr)
        sys.exit(2)
    device = torch.device("cuda")
    print(f"{machine('cuda')}\nmemory: {how_measured(device)}")
    for case in [CLAIM, *(GRID if arguments.grid else [])]:
        compare(case, device, arguments.terabytes, arguments.teraflops)


if __name__ == "__main__":
    main()
