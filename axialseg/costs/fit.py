"""Whether a training step fits into the memory that is free, and what makes it fit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray
from omegaconf import DictConfig

from axialseg.build import Classes, build, build_task
from axialseg.costs.training_memory import FakeStep
from axialseg.datasets.image_classes import ImageClasses
from axialseg.panoptic.panoptic_map import PanopticSegments
from axialseg.tasks.training_task import TrainingTask

WORKER_BYTES = 120 * 2**20  # of a loader process, its imports included (docs/data.md)
RANK_BYTES = 700 * 2**20  # of a further process that trains: its imports
BATCHES_OF_WORKER = 2  # that it prepares ahead, PyTorch's default
GPU_RESERVE = 0.1  # share for the driver's workspaces and for fragmentation
CPU_RESERVE = 0.05
MASKS = 50  # ground-truth masks of an image, for losses whose size depends on them
# No step of our models takes more for each pixel and parameter. If this fits, nothing is counted.
MOST_PER_PIXEL, MOST_PER_PARAMETER = 2**16, 24


class Room(NamedTuple):
    """Where training has to fit.

    Attributes:
        free: bytes of each device (of a CPU: of the machine).
        is_gpu: the kind of device.
        ranks: processes that share a machine's memory.
        workers: loader processes of each rank.
        cached: bytes of the images that each rank keeps decoded.
    """

    free: int
    is_gpu: bool
    ranks: int
    workers: int
    cached: int


class Fit(NamedTuple):
    """What was found.

    Attributes:
        needed: bytes of the batch as it is.
        free: bytes.
        accumulated: `trainer.accumulate_grad_batches` with which it fits, the smallest; None if
            not even one image does.
    """

    needed: int
    free: int
    accumulated: int | None


def fake_step(
    cfg: DictConfig, classes: Classes, crop: tuple[int, int], precision: str, masks: int
) -> FakeStep:
    """The training step of a config, with samples of the shapes and types that loaders make.

    Args:
        cfg: with `model`, `schedule` and `trainer`.
        classes: of the data.
        crop: (height, width) in pixels.
        precision: Lightning's name.
        masks: ground-truth masks of an image.
    """

    def make_task() -> TrainingTask:
        task = build_task(cfg, classes)
        assert isinstance(task, TrainingTask)
        return task

    return FakeStep(make_task, fake_sample(cfg, classes, crop), precision, masks)


def fake_sample(cfg: DictConfig, classes: Classes, crop: tuple[int, int]) -> Mapping[str, NDArray]:
    """An empty training sample: its shapes and types are the real ones'."""
    import numpy as np

    sample: dict[str, NDArray[Any]] = {"image": np.zeros((3, *crop), np.uint8)}
    if isinstance(classes, ImageClasses):
        return sample | {"label": np.zeros((), np.int64)}
    void = PanopticSegments(np.zeros(crop, np.int32), np.zeros(0, np.int64), np.zeros(0, bool))
    return sample | {"valid": np.ones(crop, bool), **build(cfg.model.targets)(void, classes)}


def is_obviously_small(images: int, crop: tuple[int, int], parameters: int, room: Room) -> bool:
    """Whether the step fits so easily that counting it would waste the user's seconds."""
    most = images * crop[0] * crop[1] * MOST_PER_PIXEL + parameters * MOST_PER_PARAMETER
    return room.ranks * (most + room.cached + RANK_BYTES) < room.free


def needed_bytes(step: FakeStep, images: int, room: Room, sample_bytes: int) -> int:
    """What a step takes of the room, beside what this process holds already.

    Args:
        step: of one rank.
        images: of one forward pass.
        room: where it has to fit.
        sample_bytes: of one sample as the loaders make it.
    """
    if room.is_gpu:
        # Accumulated gradients outlive the forward pass, and ranks exchange them in a copy.
        return step.peak_bytes(images) + 2 * step.gradients
    batches = BATCHES_OF_WORKER * room.workers or 1
    loader = batches * images * sample_bytes + room.workers * WORKER_BYTES
    rank = step.process_bytes(images) + loader + room.cached
    return room.ranks * rank + (room.ranks - 1) * RANK_BYTES


def fit(step: FakeStep, per_rank: int, room: Room, sample_bytes: int) -> Fit:
    """How many parts a rank's images must be split into.

    Args:
        step: of one rank.
        per_rank: images of one rank and optimiser step.
        room: where they have to fit.
        sample_bytes: of one sample as the loaders make it.
    """
    usable = int(room.free * (1 - (GPU_RESERVE if room.is_gpu else CPU_RESERVE)))
    needed = needed_bytes(step, per_rank, room, sample_bytes)
    if needed <= usable:
        return Fit(needed, room.free, 1)
    one, two = (needed_bytes(step, images, room, sample_bytes) for images in (1, 2))
    for parts in range(2, per_rank + 1):
        images, rest = divmod(per_rank, parts)
        # Along the line through one and two it is clear at once that the most do not fit.
        if rest or one + (images - 1) * (two - one) > 1.1 * usable:
            continue
        if needed_bytes(step, images, room, sample_bytes) <= usable:
            return Fit(needed, room.free, parts)
    return Fit(needed, room.free, None)
