"""A whole training step: ours beside the same model with textbook attention, in time and memory.

    python benchmarks/training_step.py [--quick] [--model NAME]

Forward pass, loss, backward pass and update of a batch of one image, float32. One process, one
thread, its CPU time, both take turns, medians. Peaks of memory, weights and the optimiser's state
included, are of a process each. `global` is the same with every axis attended whole, as deeplab2
has it; the textbook form of a span is a mask over the whole map.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from axialseg.commands.command_line import compose_config
from axialseg.costs.benchmark import (
    Contestant,
    Job,
    machine,
    peak_bytes,
    take_turns,
    textbook_config,
    training_work,
)
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.machine.peak_memory import how_measured
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

MEBIBYTE = 2**20


def job(model: str, size: int, span: str) -> Job:
    """A step on one square image."""
    overrides = [f"model={model}"]
    if span == "global":
        overrides.append("model.backbone.attention.span=null")
    config = compose_config("benchmark", overrides)
    return Job(config, CITYSCAPES, (size, size), 1, "cpu", "32-true", False)


def main() -> None:
    """Prints two lines per span."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small image")
    parser.add_argument("--model", default="axial_deeplab_s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the project's commands do
    size = 257 if arguments.quick else 513
    print(machine("cpu"))
    print(f"memory: {how_measured(torch.device('cpu'))}")
    for span in ("as configured", "global"):
        ours = job(arguments.model, size, span)
        forms = {
            "ours": Contestant(training_work, ours),
            "textbook": Contestant(
                training_work, ours._replace(config=textbook_config(ours.config))
            ),
        }
        peaks = {name: peak_bytes(contestant) for name, contestant in forms.items()}
        works = {name: c.make(c.job) for name, c in forms.items() if peaks[name] is not None}
        times = take_turns(works, 0, torch.device("cpu"), time.process_time)
        heading = f"{arguments.model}, {size} x {size}, span {span}"
        print(f"\n{heading:<48}{'ms':>9}{'x ours':>9}{'MiB':>9}{'x ours':>9}")
        for name, peak in peaks.items():
            if peak is None or not times[name]:
                print(f"  {name:<46}  out of memory")
                continue
            mine = peaks["ours"] or peak
            taken, base = (statistics.median(times[form]) for form in (name, "ours"))
            print(
                f"  {name:<46}{1e3 * taken:9.0f}{taken / base:9.2f}"
                f"{peak / MEBIBYTE:9.0f}{peak / mine:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
