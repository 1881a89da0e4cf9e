"""The time of an image with each model, as `predict` runs it on a CPU.

    python benchmarks/model_times.py [--quick] [model ...]

CPU seconds of one forward pass of one image of 641x641 (`--quick`: 65x65) in float32, one thread,
without post-processing; the median of three runs, of less where one takes more than 10 seconds. The
weights are random, the classes COCO's. Two runs on a machine in use differ by a tenth or more.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from axialseg.commands.command_line import compose_config
from axialseg.costs.benchmark import Job, fused_for, inference_work, machine
from axialseg.panoptic.coco_classes import COCO

TINY = ("axial_hybrid_tiny", "axial_deeplab_tiny", "max_deeplab_tiny", "kmax_tiny")
OTHERS = (
    *("panoptic_deeplab_resnet50", "panoptic_deeplab_resnet50_beta"),
    *("panoptic_deeplab_resnet101", "ps_attention_deeplab"),
    *("axial_deeplab_s", "axial_deeplab_m", "axial_deeplab_l", "axial_deeplab_xl"),
    *("max_deeplab_s_backbone", "max_deeplab_l_backbone", "max_deeplab_s", "max_deeplab_l"),
    *("kmax_r50", "kmax_axial_r50"),
    *("axial_swidernet_1_1_1", "axial_swidernet_1_1_3", "axial_swidernet_1_1_4.5"),
)
RUNS, LONG = 3, 10.0


def seconds(model: str, size: int) -> list[float]:
    """CPU seconds of each run, after one of a small image that sets the libraries up."""
    config = compose_config("benchmark", [f"model={model}"])
    job = Job(config, COCO, (size, size), 1, "cpu", "32-true", False)
    inference_work(job._replace(size=(65, 65)), fused_for(job.precision))()
    work = inference_work(job, fused_for(job.precision))
    times: list[float] = []
    while len(times) < RUNS and sum(times) < LONG:
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def main() -> None:
    """Prints one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names; all but the tiny ones take minutes")
    parser.add_argument("--quick", action="store_true", help="the tiny models, a small image")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("cpu"))
    size = 65 if arguments.quick else 641
    for model in arguments.models or (TINY if arguments.quick else TINY + OTHERS):
        times = seconds(model, size)
        middle = statistics.median(times)
        print(f"{model:<32}{middle:9.2f} s, {len(times)} runs of {size} x {size}", flush=True)


if __name__ == "__main__":
    main()
