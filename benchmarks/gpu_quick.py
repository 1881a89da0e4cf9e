"""The most valuable numbers of a GPU in a few minutes; each row is printed once it is measured.

    python benchmarks/gpu_quick.py attention|training|inference|planner [--dry]

One process and one form after the other, so that little time goes into starting; medians of
repeated runs, peaks of PyTorch's allocator. `benchmarks/gpu_all.sh` runs all four within time
limits. --dry runs the same code with tiny sizes on the CPU, to find mistakes before a GPU is at
hand; its numbers mean nothing.

attention: the layer, forward and backward: kernel, portable core, textbook form eager and compiled.
training: one optimiser step in bfloat16, beside the textbook form and Mask2Former (random weights).
inference: one prediction without post-processing.
planner: the planned peak of a training step beside the measured one.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from gpu_attention import Case
from gpu_attention import Work as AttentionWork
from gpu_training_step import forms, job
from inference import PEER, mask2former
from memory_planner import fake_step_of

from axialseg.costs.benchmark import (
    Contestant,
    Job,
    Work,
    folded_channels_last,
    inference_work,
    machine,
    textbook_config,
    training_batch,
    training_work,
)

GIBIBYTE = 2**30
WARM_UP = 2
ATTENTION_FORMS = ("textbook", "kernel", "portable", "textbook, compiled", "kernel, compiled")
PRECISIONS = ("bfloat16", "tensor-float-32", "float32")


def measure(make: Callable[[], Work], device: torch.device, seconds: float) -> tuple[float, int]:
    """Median seconds of a run, and peak bytes.

    Args:
        make: builds the work, ready to run again and again.
        device: that the work runs on.
        seconds: the runs go on for so long.
    """
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    work = make()
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times), torch.cuda.max_memory_allocated(device) if on_gpu else 0


class Table:
    """Rows with their ratios to the first one.

    Args:
        heading: printed above.
        device: of the work.
        seconds: see `measure`.
        images: of one run; rows then hold images per second.
    """

    def __init__(self, heading: str, device: torch.device, seconds: float, images: int) -> None:
        self._device, self._seconds, self._images = device, seconds, images
        self._first: tuple[float, int] | None = None
        print(f"\n{heading}\n{'':<40}{'ms':>9}{'images/s':>10}{'faster':>8}{'GiB':>8}{'leaner':>8}")

    def row(self, name: str, make: Callable[[], Work]) -> None:
        """Measures one form; where it fails, the row tells why and the others go on."""
        try:
            seconds, peak = measure(make, self._device, self._seconds)
        except torch.OutOfMemoryError:
            print(f"{name:<40}  out of memory", flush=True)
            return
        except Exception as error:
            print(f"{name:<40}  failed: {str(error).splitlines()[0][:80]}", flush=True)
            return
        self._first = self._first or (seconds, peak)
        leaner = f"{self._first[1] / peak:8.2f}" if peak else f"{'-':>8}"
        print(
            f"{name:<40}{1e3 * seconds:9.2f}{self._images / seconds:10.2f}"
            f"{self._first[0] / seconds:8.2f}{peak / GIBIBYTE:8.2f}{leaner}",
            flush=True,
        )


def attention(device: torch.device, is_dry: bool) -> None:
    """The layer at the claim's size and at half of it."""
    cases = [Case(16, 9, 1)] if is_dry else [Case(128, 129, 8), Case(128, 65, 8)]
    for case in cases:
        for precision in PRECISIONS:
            heading = f"attention, planes {case.planes}, L = {case.length}, {precision}"
            table = Table(heading, device, 0 if is_dry else 1.0, case.batch)
            for form in ATTENTION_FORMS[: 3 if is_dry else None]:
                table.row(form, partial(AttentionWork, form, case, precision, device))


def training(device: torch.device, is_dry: bool) -> None:
    """A step of the two families at the published COCO size."""
    names = ("axial_deeplab_tiny", "max_deeplab_tiny") if is_dry else None
    size = 65 if is_dry else 1025
    for model in names or ("axial_deeplab_l", "max_deeplab_s"):
        found = forms(model, size, 1, device.type)
        heading = f"training step, {model}, {size}x{size}, batch 1, bf16-mixed"
        table = Table(heading, device, 0 if is_dry else 6.0, 1)
        for name in ("textbook", "kernel", "portable"):
            table.row(name, partial(found[name].make, found[name].job))
        if not is_dry:
            table.row(PEER, partial(mask2former_training_work, found["portable"].job))


def mask2former_training_work(job: Job) -> Work:
    """A step of the peer on the same images, with 20 random masks each."""
    net = mask2former(len(job.categories)).to(job.device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    image = training_batch(job)["image"].float() / 255
    masks = [(torch.rand(20, *job.size, device=job.device) > 0.9).float() for _ in image]
    classes = [torch.arange(20, device=job.device) for _ in image]

    def run() -> None:
        with torch.autocast(image.device.type, torch.bfloat16):
            loss = net(pixel_values=image, mask_labels=masks, class_labels=classes).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def inference(device: torch.device, is_dry: bool) -> None:
    """One image of Cityscapes' size."""
    model, size = ("axial_swidernet_tiny", (65, 129)) if is_dry else (
        "axial_swidernet_1_1_1", (1025, 2049))  # fmt: skip
    for precision in ("bf16-mixed", "32-true"):
        plain = job(model, [], size[0], 1, device.type)._replace(size=size, precision=precision)
        textbook = plain._replace(config=textbook_config(plain.config))
        last = partial(inference_work, form=folded_channels_last)
        heading = f"inference, {model}, {size[0]}x{size[1]}, {precision}"
        table = Table(heading, device, 0 if is_dry else 4.0, 1)
        for name, contestant in (
            ("textbook", Contestant(inference_work, textbook)),
            ("ours", Contestant(inference_work, plain)),
            ("ours, folded, channels last", Contestant(last, plain)),
        ):
            table.row(name, partial(contestant.make, contestant.job))


def planner(device: torch.device, is_dry: bool) -> None:
    """What `python -m axialseg memory` counts, beside what PyTorch's allocator hands out."""
    cases = [("axial_deeplab_tiny", 65, 2)] if is_dry else [
        ("axial_deeplab_l", 1025, 1), ("max_deeplab_s", 641, 4), ("axial_hybrid_tiny", 641, 8),
    ]  # fmt: skip
    print(f"\n{'training step, bf16-mixed':<40}{'planned':>9}{'measured':>10}{'ratio':>8}   GiB")
    for model, size, batch in cases:
        step = job(model, [], size, batch, device.type)
        planned = fake_step_of(step.config, step.precision).peak_bytes(batch)
        _, peak = measure(partial(training_work, step), device, 0)
        ratio = f"{planned / peak:8.2f}" if peak else f"{'-':>8}"
        name = f"{model}, {size}x{size}, batch {batch}"
        print(f"{name:<40}{planned / GIBIBYTE:9.2f}{peak / GIBIBYTE:10.2f}{ratio}", flush=True)


PARTS = {"attention": attention, "training": training, "inference": inference, "planner": planner}


def main() -> None:
    """Prints the tables of one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        print("This benchmark needs a CUDA device, and there is none; --dry.", file=sys.stderr)
        sys.exit(2)
    device = torch.device("cpu" if arguments.dry else "cuda")
    print(machine(device.type))
    PARTS[arguments.part](device, arguments.dry)


if __name__ == "__main__":
    main()
