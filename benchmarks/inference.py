"""Inference: ours as it is, with its options, in textbook form, and beside Mask2Former.

    python benchmarks/inference.py [--quick] [--compile] [--device cuda]

One forward pass of a batch of one image, float32, `torch.inference_mode`, without post-processing.
One process, one thread, its CPU time (on a GPU wall clock), the contestants take turns, medians.
Peaks of memory, weights included, are of a process each.

`folded` has its batch norms folded into the convolutions, `fused` is what `predict` runs on a CPU.
The textbook form is the same network, weights included, with the axial attention that the papers'
formulas spell out; a span is a mask over its whole map. Mask2Former is that of transformers with a
Swin-T backbone, 100 queries and COCO's classes, its weights random: another network for the same
task, at the same image size.
"""

import argparse
import os
import statistics
import time
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from axialseg.commands.command_line import compose_config
from axialseg.costs.benchmark import (
    Contestant,
    Job,
    Work,
    folded_channels_last,
    fused_for,
    inference_work,
    machine,
    peak_bytes,
    take_turns,
    textbook_config,
    training_batch,
)
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.machine.peak_memory import how_measured
from axialseg.panoptic.coco_classes import COCO

MODELS = ("axial_deeplab_s", "max_deeplab_s")
PEER = "Mask2Former Swin-T (transformers)"
MEBIBYTE = 2**20


def job(model: str, size: int, device: str, compiled: bool = False) -> Job:
    """One of our models on one square image."""
    config = compose_config("benchmark", [f"model={model}"])
    return Job(config, COCO, (size, size), 1, device, "32-true", compiled)


def mask2former(labels: int) -> nn.Module:
    """The peer with random weights."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(depths=[2, 2, 6, 2], out_features=stages)
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=labels)
    return Mask2FormerForUniversalSegmentation(config)


def mask2former_work(job: Job) -> Work:
    """The peer; of the job, only the images and the device count."""
    net = mask2former(len(COCO)).eval().to(job.device)
    image = training_batch(job)["image"].float() / 255

    def run() -> None:
        with torch.inference_mode():
            net(pixel_values=image)

    return run


def contestants(size: int, device: str, with_compile: bool) -> dict[str, Contestant]:
    """By the name that is printed."""
    found = {}
    for model in MODELS:
        plain = job(model, size, device)
        folded = partial(inference_work, form=fold_batch_norms)
        last = partial(inference_work, form=folded_channels_last)
        found[f"{model}: ours"] = Contestant(inference_work, plain)
        found[f"{model}: folded"] = Contestant(folded, plain)
        found[f"{model}: folded, channels last"] = Contestant(last, plain)
        if device == "cpu":
            for precision in ("32-true", "bf16-mixed"):
                fused = partial(inference_work, form=fused_for(precision))
                name = f"{model}: folded, fused, {precision}"
                found[name] = Contestant(fused, plain._replace(precision=precision))
        if with_compile:
            compiled = Contestant(last, job(model, size, device, compiled=True))
            found[f"{model}: folded, channels last, compiled"] = compiled
        textbook = plain._replace(config=textbook_config(plain.config))
        found[f"{model}: textbook attention"] = Contestant(inference_work, textbook)
    try:
        import transformers  # noqa: F401
    except ImportError:
        print(f"{PEER} is not installed: pip install -c constraints.txt -e '.[bench]'")
    else:
        found[PEER] = Contestant(mask2former_work, job(MODELS[-1], size, device))
    return found


def main() -> None:
    """Prints one line per contestant and image size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    print(machine(arguments.device))
    print(f"memory: {how_measured(device)}")
    for size in (257,) if arguments.quick else (257, 513, 641):
        found = contestants(size, arguments.device, arguments.compile)
        peaks = {name: peak_bytes(contestant) for name, contestant in found.items()}
        works = {name: c.make(c.job) for name, c in found.items() if peaks[name] is not None}
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        times = take_turns(works, 0 if arguments.quick else 120, device, clock)
        heading = f"{size} x {size}, {min(map(len, times.values()))} rounds or more"
        print(f"\n{heading:<48}{'ms':>9}{'x ours':>9}{'MiB':>9}{'x ours':>9}")
        first = ""
        for name, peak in peaks.items():
            if name.endswith(": ours"):
                first = name
            if peak is None or not times[name]:
                print(f"{name:<48}  out of memory")
                continue
            milliseconds, base = (1e3 * statistics.median(times[n]) for n in (name, first))
            print(
                f"{name:<48}{milliseconds:9.0f}{milliseconds / base:9.2f}"
                f"{peak / MEBIBYTE:9.0f}{peak / (peaks[first] or peak):9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
