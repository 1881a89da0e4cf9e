"""A whole training step on a GPU: kernel, portable core and textbook form, eager and compiled.

    python benchmarks/gpu_training_step.py [--model NAME ...] [--size 1025] [--batch 1]

Forward pass, loss, backward pass and update, in bfloat16: images per second, peak memory of
PyTorch's allocator (weights and optimiser included), ratios to the eager textbook form, and the
share of the tensor cores' bfloat16 rate (--teraflops) that the multiply-adds of the step make up.
"""

import argparse
import sys

import torch
from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config
from axialseg.commands.complexity import classes_of
from axialseg.costs.benchmark import (
    Contestant,
    Job,
    compare,
    machine,
    multiply_adds,
    textbook_config,
    training_work,
)

MODELS = ("axial_deeplab_l", "max_deeplab_s")
SECONDS = 20.0
GIBIBYTE = 2**30


def job(model: str, options: list[str], size: int, batch: int, device: str) -> Job:
    """A training step on COCO's classes."""
    data = ["data=coco", f"crop=[{size},{size}]"]
    cfg: DictConfig = compose_config("memory", [f"model={model}", *data, *options])
    categories = classes_of(cfg)
    return Job(cfg, categories, (size, size), batch, device, "bf16-mixed", compile=False)


def forms(model: str, size: int, batch: int, device: str) -> dict[str, Contestant]:
    """What is compared, by name."""
    portable = job(model, [], size, batch, device)
    jobs = {
        "textbook": portable._replace(config=textbook_config(portable.config)),
        "portable": portable,
        "portable, recomputed": job(
            model, ["+model.backbone.activation_checkpointing=true"], size, batch, device
        ),
        "kernel": job(model, ["model/attention=triton"], size, batch, device),
        "kernel, channels last": job(
            model,
            ["model/attention=triton", "++model.task.channels_last=true"],
            size,
            batch,
            device,
        ),
    }
    for name in ("textbook", "portable", "kernel, channels last"):
        jobs[f"{name}, compiled"] = jobs[name]._replace(compile=True)
    return {name: Contestant(training_work, work) for name, work in jobs.items()}


def main() -> None:
    """Prints one table per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=1025, help="height and width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--teraflops", type=float, default=989.0, help="bfloat16, H200: 989")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA device, and there is none.", file=sys.stderr)
        sys.exit(2)
    print(machine("cuda"))
    for model in arguments.model:
        contestants = forms(model, arguments.size, arguments.batch, "cuda")
        # A backward pass is two forward passes, a multiply-add two operations.
        operations = 2 * 3 * multiply_adds(contestants["portable"].job)
        costs = compare(contestants, SECONDS, lambda text: print(text, file=sys.stderr))
        base = costs["textbook"]
        print(f"\n{model}, {arguments.size}x{arguments.size}, batch {arguments.batch}, bf16-mixed")
        print(f"{'':<34}{'images/s':>9}{'ratio':>8}{'GiB':>8}{'ratio':>8}{'of peak':>9}")
        for name, cost in costs.items():
            if cost.seconds is None or cost.peak_bytes is None:
                print(f"{name:<34}{'out of memory':>17}")
                continue
            fast = f"{base.seconds / cost.seconds:8.2f}" if base.seconds else f"{'':8}"
            lean = f"{base.peak_bytes / cost.peak_bytes:8.2f}" if base.peak_bytes else f"{'':8}"
            share = operations / cost.seconds / (arguments.teraflops * 1e12)
            print(
                f"{name:<34}{arguments.batch / cost.seconds:9.2f}{fast}"
                f"{cost.peak_bytes / GIBIBYTE:8.2f}{lean}{share:9.1%}"
            )


if __name__ == "__main__":
    main()
