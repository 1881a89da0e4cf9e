"""How time and memory of a training step and of inference grow with the image.

    python benchmarks/growth.py [--quick] [--figure FILE] [--memory GIB] [--seconds SECONDS]

One square image, float32, COCO's classes, a scene of 20 things and 8 stuff classes. Each curve gets
the exponent p of y = a * pixels ** p, by least squares in logarithms over its three largest sizes.

Memory is the peak of the tensors, weights included (and in training gradients and the optimiser's
state), counted on fake tensors without computing anything: of all networks at all sizes.

Times are CPU time of one thread, the median of five runs; once 3 s are over there is no further
run. Inference runs the network as it is, neither folded nor fused. A network stops before the
first size whose counted memory is above `--memory`, or whose time, foretold by the exponent so
far, is above `--seconds`.

The textbook form is axial_deeplab_s with the formulas of global axial attention written out.
--figure draws the same as an SVG file.
"""

import argparse
import gc
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from axialseg.build import build_net_on_meta
from axialseg.commands.command_line import compose_config
from axialseg.costs.benchmark import (
    WARM_UP_SIZE,
    Job,
    Work,
    inference_work,
    machine,
    textbook_config,
    training_work,
)
from axialseg.costs.fit import fake_sample, fake_step
from axialseg.costs.synthetic_scene import STUFF, THINGS
from axialseg.costs.training_memory import LiveBytes
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.panoptic.coco_classes import COCO

SIZES = (129, 257, 385, 513, 769, 1025)
QUICK_SIZES = (129, 193)
FITTED = 3  # sizes
RUNS, ENOUGH = 5, 3.0  # seconds
MEBIBYTE, GIBIBYTE = 2**20, 2**30
COLORS = ("#0072b2", "#009e73", "#cc79a7", "#d55e00")

Curve = dict[int, float]  # side of the image -> seconds or bytes
Curves = dict[tuple[str, str], Curve]  # (work, network) -> its curve


def networks(quick: bool) -> dict[str, DictConfig]:
    """By the name that is printed."""
    if quick:
        return {"axial_hybrid_tiny": compose_config("benchmark", ["model=axial_hybrid_tiny"])}
    span = "model.backbone.attention.span"
    whole, local = (
        compose_config("benchmark", ["model=axial_deeplab_s", f"{span}={value}"])
        for value in ("null", 65)
    )
    return {
        "axial_deeplab_s, global": whole,
        "axial_deeplab_s, span 65": local,
        "max_deeplab_s": compose_config("benchmark", ["model=max_deeplab_s"]),
        "textbook form, global": textbook_config(whole),
    }


def job(config: DictConfig, size: int) -> Job:
    """One square image."""
    return Job(config, COCO, (size, size), 1, "cpu", "32-true", False)


def training_bytes(config: DictConfig, sizes: tuple[int, ...]) -> Curve:
    """Peaks of a training step."""
    squares = {size: (size, size) for size in sizes}
    step = fake_step(config, COCO, squares[sizes[0]], "32-true", THINGS + STUFF)
    curve: Curve = {}
    for size, square in squares.items():
        step.use(fake_sample(config, COCO, square))
        curve[size] = step.peak_bytes(1)
    return curve


def inference_bytes(config: DictConfig, sizes: tuple[int, ...]) -> Curve:
    """Peaks of a forward pass without gradients."""
    live = LiveBytes()
    curve: Curve = {}
    net = build_net_on_meta(config.model, COCO.semantic_channels).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), live, torch.no_grad():
        net.to_empty(device="cpu")
        for size in sizes:
            live.reset_peak()
            image = torch.empty(1, 3, size, size, dtype=torch.uint8)
            net(image, torch.empty(1, size, size, dtype=torch.bool))
            curve[size] = live.peak
            del image
    return curve


# Name -> what runs it, and what counts its memory.
WORKS = {
    "training step": (training_work, training_bytes),
    "inference": (inference_work, inference_bytes),
}


def exponent(curve: Curve) -> float:
    """The p of y = a * pixels ** p at the largest sizes; NaN with fewer than two."""
    if len(curve) < 2:
        return float("nan")
    sides = sorted(curve)[-FITTED:]
    values = [curve[side] for side in sides]
    return float(np.polyfit(2 * np.log(sides), np.log(values), 1)[0])


def foretold(curve: Curve, size: int) -> float:
    """The value at a larger size; two points are needed, or 0 is all one can say."""
    if len(curve) < 2:
        return 0.0
    last = max(curve)
    return curve[last] * (size / last) ** (2 * exponent(curve))


def seconds(work: Work) -> float:
    """Median CPU time of a few runs, or of one that takes long."""
    times: list[float] = []
    while len(times) < RUNS and sum(times) < ENOUGH:
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(name: str, config: DictConfig, memory: Curve, limits: argparse.Namespace) -> Curve:
    """The times of one network's work, as far as they are within the limits.

    Args:
        name: of the work.
        config: of the network.
        memory: bytes at each size.
        limits: `memory` in GiB and `seconds`.
    """
    make, _ = WORKS[name]
    make(job(config, WARM_UP_SIZE))()
    curve: Curve = {}
    for size, peak in memory.items():
        if peak > limits.memory * GIBIBYTE or foretold(curve, size) > limits.seconds:
            break
        curve[size] = seconds(make(job(config, size)))
        gc.collect()
        print(f"{size:46}{curve[size]:10.2f}{peak / MEBIBYTE:10.0f}", flush=True)
    for size in list(memory)[len(curve) :]:
        print(f"{size:46}{'-':>10}{memory[size] / MEBIBYTE:10.0f}", flush=True)
    return curve


def draw(path: Path, times: Curves, peaks: Curves) -> None:
    """A panel for each work's time and memory."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "axialseg",
            "svg.fonttype": "none",
            "font.sans-serif": ["DejaVu Sans"],  # the whole list would be written with each text
            "font.size": 9,
        }
    )
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle("growth with the image's pixels to the power p")
    panels = figure.subplots(2, len(WORKS), sharex=True)
    units = (("time", "seconds", times, 1), ("memory", "GiB", peaks, GIBIBYTE))
    for row, (what, unit, curves, divisor) in zip(panels, units, strict=True):
        for axes, work in zip(row, WORKS, strict=True):
            of_work = {name: curve for (w, name), curve in curves.items() if w == work}
            for (name, curve), color in zip(of_work.items(), COLORS, strict=False):
                values = [value / divisor for value in curve.values()]
                label = f"{name}: p = {exponent(curve):.2f}"
                axes.plot(list(curve), values, "o-", color=color, label=label, markersize=4)
            axes.set(xscale="log", yscale="log", title=f"{work}: {what}", ylabel=unit)
            axes.set_xticks(SIZES, [str(size) for size in SIZES])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.tick_params(bottom=False, left=False)
            axes.grid(axis="y", color="#dddddd")
            axes.legend(loc="upper left", frameon=False)
            low, high = axes.get_ylim()
            axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    for axes in panels[-1]:
        axes.set_xlabel("side of the square image, pixels")
    figure.savefig(path, facecolor="white", metadata={"Date": None})


def main() -> None:
    """Prints a table of each network and work, then the exponents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny network, two sizes")
    parser.add_argument("--figure", type=Path, help="SVG file to write")
    parser.add_argument("--memory", type=float, default=9, help="limit in GiB (9)")
    parser.add_argument("--seconds", type=float, default=100, help="limit of one run (100)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the project's commands do
    print(f"{machine('cpu')}\nmemory: counted on fake tensors", flush=True)
    configs = networks(arguments.quick)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    peaks: Curves = {
        (work, name): count(config, sizes)
        for work, (_, count) in WORKS.items()
        for name, config in configs.items()
    }
    times: Curves = {}
    for work, name in peaks:
        print(f"\n{f'{work}, {name}':<40}{'size':>6}{'seconds':>10}{'MiB':>10}")
        times[work, name] = measure(work, configs[name], peaks[work, name], arguments)
    print(f"\n{'exponent of the pixels':<46}{'time':>10}{'memory':>10}")
    for (work, name), curve in times.items():
        powers = f"{exponent(curve):10.2f}{exponent(peaks[work, name]):10.2f}"
        print(f"{f'{work}, {name}':<46}{powers}")
    if arguments.figure:
        draw(arguments.figure, times, peaks)


if __name__ == "__main__":
    main()
