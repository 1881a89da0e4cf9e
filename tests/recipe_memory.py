"""Writes the line `memory` into the heads of the experiments; `python tests/recipe_memory.py`.

It is what the planner counts: how the recipe's batch is shared by 8 GPUs of 80 GiB, or is made on
the CPU, and what a step takes of each. Takes about half a minute for a row.
"""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from recipe_table import EXPERIMENTS, heads

from axialseg.build import Classes, build_classes
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.costs.fit import GPU_RESERVE, MASKS, Room, fake_sample, fake_step, fit
from axialseg.panoptic.categories import contiguous_categories

GIB = 2**30
GPUS, GPU_BYTES = 8, 80 * GIB
VISTAS = 65, 37  # classes of version 1.2, and the things among them: only its download lists them
LINE = re.compile(
    r"(?P<devices>\d+) (?P<kind>GPU|CPU)s? x (?P<images>\d+) images? x (?P<passes>\d+) pass(es)?, "
    r"(?P<gib>[\d.]+) GiB( each)?"
)


class RecipeMemory(NamedTuple):
    """How a recipe's batch is made, and the peak of a step on each device in GiB."""

    devices: int
    is_gpu: bool
    images: int
    passes: int
    gib: float

    def __str__(self) -> str:
        """The line in a head."""
        kind = "GPU" if self.is_gpu else "CPU"
        devices = f"{self.devices} {kind}{'s' * (self.devices > 1)}"
        images = f"{self.images} image{'s' * (self.images > 1)}"
        passes = f"{self.passes} pass{'es' * (self.passes > 1)}"
        return f"{devices} x {images} x {passes}, {self.gib:.3g} GiB{' each' * (self.devices > 1)}"


def parsed(line: str) -> RecipeMemory:
    """The line of a head."""
    match = LINE.fullmatch(line)
    assert match is not None, line
    devices, images, passes = (int(match[name]) for name in ("devices", "images", "passes"))
    return RecipeMemory(devices, match["kind"] == "GPU", images, passes, float(match["gib"]))


@contextmanager
def configs() -> Iterator[None]:
    """Within the block experiments can be composed."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def classes_of(cfg: DictConfig, name: str) -> Classes:
    """The classes; where the data set must be there to tell them, as many."""
    if not name.startswith("mapillary_vistas/"):
        return build_classes(cfg.data)
    classes, things = VISTAS
    return contiguous_categories((n, str(n), n < things, (0, 0, 0)) for n in range(classes))


def recipe_step(name: str, is_gpu: bool) -> Any:
    """The step of an experiment and the bytes of one of its samples."""
    cfg = compose("memory", [f"experiments={name}"])
    classes, crop = classes_of(cfg, name), tuple(cfg.data.crop_size)
    step = fake_step(cfg, classes, crop, "bf16-mixed" if is_gpu else "32-true", MASKS)
    return step, sum(array.nbytes for array in fake_sample(cfg, classes, crop).values())


def recipe_memory(name: str) -> RecipeMemory:
    """Counts one experiment."""
    head = heads()[name]
    is_gpu = "CPU" not in head.hardware
    step, sample = recipe_step(name, is_gpu)
    if not is_gpu:
        return RecipeMemory(1, False, head.batch, 1, step.process_bytes(head.batch) / GIB)
    per_device = head.batch // GPUS
    found = fit(
        step, per_device, Room(GPU_BYTES, is_gpu=True, ranks=1, workers=0, cached=0), sample
    )
    assert found.accumulated is not None, f"{name}: one image does not fit into 80 GiB"
    images = per_device // found.accumulated
    return RecipeMemory(GPUS, True, images, found.accumulated, step.peak_bytes(images) / GIB)


def counted_alone(name: str) -> RecipeMemory:
    """The same in a new process, as the script counts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_with_configs, name).result()


def _with_configs(name: str) -> RecipeMemory:
    with configs():
        return recipe_memory(name)


def most_gib() -> float:
    """Of a GPU, that a step may take."""
    return GPU_BYTES * (1 - GPU_RESERVE) / GIB


def write(file: Path, memory: RecipeMemory) -> None:
    """Puts the line into a head."""
    text = file.read_text(encoding="utf-8")
    text, count = re.subn(r"(?m)^# memory:.*$", f"# memory: {memory}", text)
    assert count == 1, file
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with configs():
        for chosen in sys.argv[1:] or heads():
            counted = recipe_memory(chosen)
            print(f"{chosen}: {counted}", flush=True)
            write(EXPERIMENTS / f"{chosen}.yaml", counted)
