"""The recipe for data of one's own: what follows from the images and from the machine.

All rules stand here; `docs/own_data.md` gives their reasons at length. A value that the user gives
is never touched, and the others follow from it: half the batch has half the rate.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CPU_SIDE, GPU_SIDE = 512, 1024  # pixels; photographs with a longer side are made smaller
CPU_CROP_SHARE = 2 / 3  # of each side
GPU_CROP = 641  # pixels, the longest side of a crop
CPU_BATCH, GPU_BATCH = 8, 16
STEPS_PER_ROOT = 250  # times the root of the number of images
FEWEST_STEPS, MOST_CPU_STEPS, MOST_GPU_STEPS = 1500, 5000, 90000
SMALL_NET = 5_000_000  # parameters
SMALL_NET_RATE, LARGE_NET_RATE = 7e-3, 2.5e-4  # for a batch of 8
KERNEL_STEP = 0.035, 0.02  # of a small and of a large net's kernel, as a share of its length
PRETRAINED_SHARE = 0.5  # of the steps, and of a small net's rate
BACKBONE_SHARE = 0.1  # of the rate, where the backbone knows something already
VALIDATIONS = 5
STUFF_SHARE = 0.001  # of the image's pixels, as 2048 is of Cityscapes'
THING_SHARE = 0.00024  # as 100 is of COCO's crops of 641
SEGMENT_SHARE = 0.5  # of the small segments that the ground truth holds
CACHE_SHARE = 0.2  # of the free memory


class Facts(NamedTuple):
    """What the rules look at.

    Attributes:
        images: of the training set.
        size: (height, width) in pixels that most images have about.
        small_stuff: share of an image's pixels that small stuff of the rarest class has; None if
            there is no stuff.
        small_thing: the same of things.
        is_gpu: the device.
        devices: their number.
        cores: of this machine.
        parameters: of the net.
        is_pretrained: training starts from a checkpoint.
        decoded_bytes: all images and ids of both sets in memory.
        free_bytes: main memory; None if unknown.
    """

    images: int
    size: tuple[int, int]
    small_stuff: float | None
    small_thing: float | None
    is_gpu: bool
    devices: int
    cores: int
    parameters: int
    is_pretrained: bool
    decoded_bytes: int
    free_bytes: int | None


class Choice(NamedTuple):
    """A value, and why it is this one."""

    key: str
    value: Any
    reason: str


def choices(facts: Facts, given: Mapping[str, Any]) -> list[Choice]:
    """The recipe.

    Args:
        facts: about data and machine.
        given: values by key that are settled; no choice is made for them.

    Returns:
        One choice for each other key, in an order in which they depend on each other.
    """
    made: list[Choice] = []
    values = dict(given)
    for rule in RULES:
        for choice in rule(facts, values):
            if choice.key not in given:
                made.append(choice)
                values[choice.key] = choice.value
    return made


def working_size(size: tuple[int, int], resize_range: Sequence[int] | None) -> tuple[int, int]:
    """(height, width) of an image as the net sees it."""
    if resize_range is None:
        return size
    shorter, longer = resize_range
    scale = min(shorter / min(size), longer / max(size))
    return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)


RESIZE = "data.train_transform.resize_range"
CROP = "data.crop_size"
BATCH = "schedule.batch_size"
STEPS = "trainer.max_steps"


def _resize(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    side = GPU_SIDE if facts.is_gpu else CPU_SIDE
    shape = f"{facts.size[0]}x{facts.size[1]}"
    if max(facts.size) <= side:
        return [Choice(RESIZE, None, f"images of {shape} keep their size")]
    where = "a GPU" if facts.is_gpu else "a CPU"
    reason = f"images of {shape} are made smaller, to {side} pixels, so that a step is short"
    return [Choice(RESIZE, [side, side], f"{reason} on {where}")]


def _crop(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    size = working_size(facts.size, values[RESIZE])
    if facts.is_gpu:
        crop = [min(_side(side, 32, math.ceil), GPU_CROP) for side in size]
        return [Choice(CROP, crop, f"whole images, at most {GPU_CROP} pixels a side")]
    crop = [_side(side * CPU_CROP_SHARE, 16, round) for side in size]
    reason = f"two thirds of {size[0]}x{size[1]}: less than half the time of a whole image"
    return [Choice(CROP, crop, reason)]


def _side(length: float, stride: int, rounded: Any) -> int:
    """The nearest (or next) k * stride + 1, at which the net's grids fit the corners."""
    return max(int(rounded((length - 1) / stride)), 2) * stride + 1


def _batch(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    usual = GPU_BATCH if facts.is_gpu else CPU_BATCH
    batch = min(usual, max(facts.images, 2))
    batch = math.ceil(batch / facts.devices) * facts.devices
    reason = "small batches make many steps in the same time"
    return [Choice(BATCH, batch, reason)]


def _steps(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    most = MOST_GPU_STEPS if facts.is_gpu else MOST_CPU_STEPS
    steps = STEPS_PER_ROOT * math.sqrt(facts.images)
    reason = f"{STEPS_PER_ROOT} times the root of {facts.images:,} images"
    if facts.is_pretrained:
        steps, reason = steps * PRETRAINED_SHARE, f"{reason}, halved: the start is pre-trained"
    fewest = int(FEWEST_STEPS * (PRETRAINED_SHARE if facts.is_pretrained else 1))
    rounded = min(max(round(steps / 100) * 100, fewest), most)
    if rounded == fewest:
        reason = f"{fewest:,} are the fewest that a net learns from"
    elif rounded == most:
        reason = f"{most:,} are the most on a {'GPU' if facts.is_gpu else 'CPU'}"
    epochs = rounded * values[BATCH] / facts.images
    return [Choice(STEPS, rounded, f"{reason}; each image comes {epochs:.0f} times")]


def _rate(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    small = facts.parameters < SMALL_NET
    rate = SMALL_NET_RATE if small else LARGE_NET_RATE
    size = f"{facts.parameters / 1e6:.1f} million parameters"
    reason = f"{rate:g} for a batch of 8 and a net of {size}"
    if facts.is_pretrained and small:
        rate, reason = rate * PRETRAINED_SHARE, f"{reason}, halved: the start is pre-trained"
    lr = float(f"{rate * values[BATCH] / 8:.3g}")
    share = BACKBONE_SHARE if facts.is_pretrained else 1.0
    known = "the checkpoint knows it" if facts.is_pretrained else "nothing is pre-trained"
    step = KERNEL_STEP[0 if small else 1]
    turn = float(f"{step / (SMALL_NET_RATE if small else LARGE_NET_RATE):.3g}")
    return [
        Choice("schedule.lr", lr, reason),
        Choice("schedule.optimizer.turn", turn, f"kernels turn by {step:g} in a step at that rate"),
        Choice("schedule.parameter_groups.backbone_lr_multiplier", share, known),
    ]


def _times(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    steps = values[STEPS]
    warmup = min(max(steps // 20, 50), 1000, max(steps // 2, 1) - 1)
    interval = max(steps // VALIDATIONS, min(steps, 50))
    reason = "a twentieth of the steps, 50 at the least"
    if warmup < 50:
        reason = "less than half of these few steps"
    return [
        Choice("schedule.warmup_steps", warmup, reason),
        Choice("trainer.val_check_interval", interval, f"about {VALIDATIONS} validations in all"),
    ]


def _limits(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    height, width = working_size(facts.size, values[RESIZE])
    kinds = (("stuff", STUFF_SHARE, facts.small_stuff), ("thing", THING_SHARE, facts.small_thing))
    made = []
    for kind, share, small in kinds:
        limit = share * height * width
        reason = f"{100 * share:g} % of {height}x{width}"
        if small is not None and small * SEGMENT_SHARE < share:
            limit = small * SEGMENT_SHARE * height * width
            reason = f"half of what small {kind} in your data has"
        key = f"model.postprocess.{kind}_area_limit"
        made.append(Choice(key, max(int(limit), 4), f"pixels, {reason}"))
    return made


def _loader(facts: Facts, values: Mapping[str, Any]) -> list[Choice]:
    room = None if facts.free_bytes is None else facts.free_bytes * CACHE_SHARE / facts.devices
    fits = room is not None and facts.decoded_bytes <= room
    size = f"{facts.decoded_bytes / 2**20:,.0f} MiB decoded"
    cache = f"{size}, {'little' if fits else 'too much'} for the free memory"
    spare = facts.cores // facts.devices - 1
    if fits and not facts.is_gpu:
        workers, reason = 0, "the images are in memory, and the net needs the cores"
    elif facts.is_gpu:
        workers, reason = max(min(spare, 8), 0), "processes that feed the GPU"
    else:
        workers, reason = max(min(spare, 2), 0), "processes beside the net on these cores"
    return [
        Choice("data.cache", fits and not facts.is_gpu, cache),
        Choice("data.num_workers", workers, reason),
        Choice("data.val_num_workers", min(workers, 2), "as above"),
    ]


RULES = (_resize, _crop, _batch, _steps, _rate, _times, _limits, _loader)
