"""The memory planner against the measured peak of a training step on a CPU.

    python benchmarks/memory_planner.py [--quick]

Measured are a few steps of the real net, loss and optimiser on random images, with a mosaic of
segments as ground truth, after a tiny net has made the libraries allocate what they keep. Both are
in float32, and in two ways:

* tensors: the planner's peak from fake tensors; see `axialseg.machine.peak_memory` for how a freed
  tensor leaves the resident memory at once.
* process: what a training takes on a CPU, which keeps freed memory (`axialseg.machine.arena`).
"""

import argparse
import gc
import os
import platform

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from omegaconf import DictConfig

from axialseg.build import build, build_task
from axialseg.commands.command_line import compose_config
from axialseg.commands.complexity import classes_of
from axialseg.costs.training_memory import FakeStep, make_optimizer, training_step
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.machine.peak_memory import ALLOCATOR, PeakMemory, how_measured, in_fresh_process
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

MEBIBYTE = 2**20
STEPS = 3
MASKS = 24
CHECKPOINTING = "+model.backbone.activation_checkpointing=true"
# Settings of the command `memory`, and images.
CASES = [
    (["model=axial_hybrid_tiny", "crop=[257,257]"], 4),
    (["model=axial_deeplab_s", "crop=[257,257]"], 1),
    (["model=max_deeplab_tiny", "crop=[257,257]"], 2),
    (["model=axial_hybrid_tiny", "crop=[129,129]"], 16),
    (["model=axial_hybrid_tiny", "crop=[641,641]"], 3),
    (["model=axial_hybrid_tiny", "crop=[1025,1025]"], 1),
    (["model=max_deeplab_tiny", "crop=[513,513]"], 1),
    (["model=axial_swidernet_tiny", "crop=[513,513]"], 1),
    (["model=axial_deeplab_tiny", "crop=[321,321]"], 1),
    (["model=axial_deeplab_s", "crop=[129,257]"], 2),
    (["model=axial_deeplab_s", "crop=[257,257]", CHECKPOINTING], 2),
    (["model=axial_swidernet_1_1_1", "crop=[129,129]"], 1),
    (["model=panoptic_deeplab_resnet50", "crop=[257,257]"], 2),
    (["model=max_deeplab_s", "crop=[129,129]"], 1),
]  # fmt: skip
QUICK = 3


def mosaic(categories: Categories, size: tuple[int, int], seed: int) -> PanopticSegments:
    """Segments of random classes around random points."""
    rng = np.random.default_rng(seed)
    points = rng.random((MASKS, 2)) * size
    rows, columns = np.mgrid[: size[0], : size[1]]
    nearest = np.full(size, np.inf)
    id_map = np.zeros(size, np.int32)
    for number, (y, x) in enumerate(points, start=1):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        id_map[distance < nearest] = number
        np.minimum(nearest, distance, out=nearest)
    class_ids = rng.choice(categories.thing_ids, MASKS).astype(np.int64)
    return PanopticSegments(id_map, class_ids, np.zeros(MASKS, bool))


def sample(cfg: DictConfig, categories: Categories, seed: int) -> dict[str, np.ndarray]:
    """One training sample as the loaders make them."""
    height, width = cfg.crop
    image = np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
    targets = build(cfg.model.targets)(mosaic(categories, (height, width), seed), categories)
    return {"image": image, "valid": np.ones((height, width), bool), **targets}


def real_steps(cfg: DictConfig, images: int) -> None:
    """A few steps that compute."""
    categories = classes_of(cfg)
    assert isinstance(categories, Categories)
    samples = [sample(cfg, categories, seed) for seed in range(images)]
    batch = {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in samples[0]}
    del samples
    task = build_task(cfg, categories).train()
    optimizer = make_optimizer(task)
    for _ in range(STEPS):
        training_step(task, optimizer, batch, None)


def measure(overrides: list[str], images: int) -> int:
    """Peak bytes of real steps, above what this process holds before."""
    warm_up()
    return measure_from_here(overrides, images)


def measure_process(overrides: list[str], images: int) -> int:
    """The same of a process that keeps what it frees, as a training does."""
    warm_up()
    as_in_training()  # not before: the steps must not find what the tiny net has left
    return measure_from_here(overrides, images)


def warm_up() -> None:
    """Makes the libraries allocate what they keep."""
    torch.set_num_threads(1)
    real_steps(compose_config("memory", ["model=axial_hybrid_tiny", "crop=[65,65]"]), 2)


def measure_from_here(overrides: list[str], images: int) -> int:
    """What real steps add."""
    cfg = compose_config("memory", overrides)
    gc.collect()
    peak = PeakMemory(torch.device("cpu"))
    real_steps(cfg, images)
    return peak.bytes()


def as_in_training() -> None:
    """Takes back what makes this process, and its children, give freed memory away."""
    for name in ALLOCATOR:
        os.environ.pop(name, None)
    keep_freed_memory()


def fake_step(overrides: list[str]) -> FakeStep:
    """The planner's step in float32."""
    return fake_step_of(compose_config("memory", overrides), "32-true")


def fake_step_of(cfg: DictConfig, precision: str) -> FakeStep:
    """The planner's step of a config that `python -m axialseg memory` composes."""
    categories = classes_of(cfg)
    shapes = sample(cfg, categories, 0)
    return FakeStep(lambda: build_task(cfg, categories), shapes, precision, MASKS)


def plan(overrides: list[str], images: int) -> int:
    """Peak bytes of a fake step."""
    return fake_step(overrides).peak_bytes(images)


def plan_process(overrides: list[str], images: int) -> int:
    """What the planner says that a process takes."""
    as_in_training()
    return fake_step(overrides).process_bytes(images)


def main() -> None:
    """Prints one line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} cases")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, float32; MiB,")
    print(f"{how_measured(torch.device('cpu'))}\n")
    heads = f"{'tensors':>27}{'process':>27}\n{'step':<88} images"
    print(f"{'':<95}{heads}{'  planned measured   ratio' * 2}")
    for overrides, images in CASES[:QUICK] if arguments.quick else CASES:
        line = f"{' '.join(overrides):<88} {images:6}"
        for planned, measured in ((plan, measure), (plan_process, measure_process)):
            mebibytes = [
                in_fresh_process(work, overrides, images) / MEBIBYTE for work in (planned, measured)
            ]
            line += f"{mebibytes[0]:9.0f}{mebibytes[1]:9.0f}{mebibytes[0] / mebibytes[1]:8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
