"""`python -m axialseg memory`: peak memory of training, the batch that fits, its accumulation."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.commands.complexity import FORMATS, classes_of, size_of
from axialseg.config.check import check_choice
from axialseg.errors import UserError
from axialseg.visualization.text_table import text_table

if TYPE_CHECKING:
    from axialseg.costs.training_memory import FakeStep, Share

USAGE = (
    "python -m axialseg memory model=<name> [data=<name>] [crop=[height,width]] "
    "[gpu=80GiB | cpu=24GiB] [precision=bf16-mixed|16-mixed|32-true] [batch=<images>] "
    "[format=table|json] [key=value ...]"
)
SUMMARY = "Counts the memory of a training step without a GPU, and finds the batch that fits."
EXAMPLES = (
    "python -m axialseg memory model=axial_deeplab_l data=coco crop=[1025,1025] gpu=80GiB",
    "python -m axialseg memory model=axial_resnet_50_s data=imagenet gpu=24GiB format=json",
    "python -m axialseg memory model=axial_hybrid_tiny data=shapes cpu=24GiB",
)
PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
DEVICES: tuple[int, ...] = (1, 2, 4, 8, 16)


class Plan(NamedTuple):
    """What training needs; all sizes in bytes.

    Attributes:
        weights: parameters and running statistics.
        gradients: of all parameters.
        optimizer_state: what the optimiser keeps between steps.
        peak_of_one: highest during a step with one image; on a CPU, like all that follow, of the
            whole process with its loader workers.
        per_image: what each further image adds.
        largest_batch: images of one device and forward pass that fit; 0 if not even one does.
        peak_of_largest: highest during a step with so many; 0 if none fits.
        peak_of_batch: highest during a step with the images asked for; None if none were.
        shares: how numbers of devices make up the recipe's batch.
    """

    weights: int
    gradients: int
    optimizer_state: int
    peak_of_one: int
    per_image: int
    largest_batch: int
    peak_of_largest: int
    peak_of_batch: int | None
    shares: list["Share"]


def main() -> None:
    """The command."""
    run_tool(memory, SUMMARY, USAGE, EXAMPLES)


def memory(arguments: list[str]) -> None:
    """Prints what training one model needs.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting.
    """
    cfg = compose_config("memory", arguments)
    height, width = size_of("crop", cfg.crop)
    key = "gpu" if cfg.cpu is None else "cpu"
    capacity = _bytes(key, cfg[key])
    if cfg.precision is None:
        cfg.precision = "bf16-mixed" if key == "gpu" else "32-true"
    _check(cfg)
    plan = _plan(cfg, (height, width), int(capacity * (1 - cfg.reserve)))
    if cfg.format == "json":
        facts = {
            "model": cfg.model.name,
            "crop": [height, width],
            "precision": cfg.precision,
            key: capacity,
            "batch_size": cfg.schedule.batch_size,
        }
        shares = [share._asdict() for share in plan.shares]
        print(json.dumps(facts | plan._asdict() | {"shares": shares}, indent=1))
        return
    print(
        f"{cfg.model.name}, crop {height}x{width}, {cfg.precision}; the recipe's batch is "
        f"{cfg.schedule.batch_size} images\n"
    )
    print(_as_table(plan, cfg, capacity))


def _check(cfg: DictConfig) -> None:
    """Refuses values that the schema cannot."""
    for key, options in (("format", FORMATS), ("precision", PRECISIONS)):
        check_choice(key, cfg[key], options)
    if not 0 <= cfg.reserve < 1:
        raise UserError(
            f"reserve={cfg.reserve} is not a share of the memory; give 0 <= reserve < 1"
        )
    for key in ("batch", "masks"):
        if cfg[key] is not None and cfg[key] < 1:
            raise UserError(f"{key}={cfg[key]}, but it must be 1 or more")


def _bytes(key: str, text: str) -> int:
    """`80GiB` in bytes."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})", text)
    if match is None or not float(match[1]):
        raise UserError(
            f"{key}={text} is not a size of memory; write it as {key}=80GiB or {key}=24GB"
        )
    return int(float(match[1]) * UNITS[match[2]])


def _plan(cfg: DictConfig, crop: tuple[int, int], usable: int) -> Plan:
    """Counts the steps.

    Args:
        cfg: composed config.
        crop: (height, width).
        usable: bytes of a device that training may take.
    """
    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.costs.training_memory import largest_batch, share_batch

    step = _fake_step(cfg, crop)
    peak_bytes: Callable[[int], int] = step.peak_bytes
    limit, numbers = usable, DEVICES
    if cfg.cpu is None:
        # Accumulated gradients outlive the forward pass, and ranks exchange them in a copy.
        limit -= 2 * step.gradients
    else:
        peak_bytes, numbers = _process_bytes(step, cfg, crop), (1,)
    largest = largest_batch(peak_bytes, limit)
    one, most = peak_bytes(1), max(largest, 2)
    shares = [share_batch(cfg.schedule.batch_size, devices, largest) for devices in numbers]
    return Plan(
        step.weights,
        step.gradients,
        step.optimizer_state,
        one,
        (peak_bytes(most) - one) // (most - 1),
        largest,
        peak_bytes(largest) if largest else 0,
        peak_bytes(cfg.batch) if cfg.batch else None,
        [share for share in shares if share is not None],
    )


def _fake_step(cfg: DictConfig, crop: tuple[int, int]) -> "FakeStep":
    """The training step of a config, with samples of the shapes and types that loaders make."""
    from axialseg.costs.fit import fake_step

    return fake_step(cfg, classes_of(cfg), crop, cfg.precision, cfg.masks)


def _process_bytes(
    step: "FakeStep", cfg: DictConfig, crop: tuple[int, int]
) -> Callable[[int], int]:
    """Images -> what a training with so many takes on a CPU, its libraries and workers included."""
    from axialseg.costs.fit import RANK_BYTES, Room, fake_sample, needed_bytes

    workers = cfg.data.get("num_workers")
    room = Room(0, False, 1, workers if isinstance(workers, int) else 0, 0)
    sample = sum(array.nbytes for array in fake_sample(cfg, classes_of(cfg), crop).values())
    return lambda images: RANK_BYTES + needed_bytes(step, images, room, sample)


def _as_table(plan: Plan, cfg: DictConfig, capacity: int) -> str:
    """The sizes, the batch that fits and how devices share the recipe's batch."""
    peak = "peak of a step" if cfg.cpu is None else "training on a CPU, workers included,"
    rows = [
        ("weights and running statistics", plan.weights),
        ("gradients", plan.gradients),
        ("state of the optimiser", plan.optimizer_state),
        (f"{peak} with 1 image", plan.peak_of_one),
        ("each further image", plan.per_image),
    ]
    if plan.peak_of_batch is not None:
        rows.append((f"{peak} with {_images(cfg.batch)}", plan.peak_of_batch))
    if plan.largest_batch > 1:
        rows.append((f"{peak} with {_images(plan.largest_batch)}", plan.peak_of_largest))
    lines = [text_table([(name, _size(size)) for name, size in rows])]
    room = f"{_size(capacity)}, of which {cfg.reserve:.0%} are left free"
    if not plan.largest_batch:
        lines += [
            "",
            f"Not one image fits into {room}. Try +model.backbone.activation_checkpointing=true, "
            "precision=bf16-mixed or a smaller crop.",
        ]
        return "\n".join(lines)
    lines += ["", f"Largest batch that fits into {room}: {_images(plan.largest_batch)}.", ""]
    if not plan.shares:
        lines.append(f"No number of devices shares {cfg.schedule.batch_size} images evenly.")
        return "\n".join(lines)
    heads = "devices", "images each", "trainer.accumulate_grad_batches", "images of a batch norm"
    shares = [(s.devices, s.images, s.accumulated, s.devices * s.images) for s in plan.shares]
    lines.append(text_table([heads, *(tuple(map(str, share)) for share in shares)], left=0))
    return "\n".join(lines)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _size(size: int) -> str:
    """Bytes for people."""
    unit = "GiB" if size >= 2**30 else "MiB"
    return f"{size / UNITS[unit]:,.2f} {unit}"
