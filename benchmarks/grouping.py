"""Post-processing of both methods on one core: grouping, merging, and masks.

    python benchmarks/grouping.py [--quick]

One process, one thread, its CPU time; the contestants take turns, medians (the plain form of
grouping and merging runs once). Panoptic-DeepLab: 200 centres, a fifth of the pixels are things.
The plain form restates what the authors' code and its ports do: the distance of every pixel to
every centre (here a band of rows at a time, as all at once need 5 GB), a loop over the instances
for their class, a loop over the stuff. Pixels that differ from it are counted.

MaX-DeepLab: 128 slots at stride 4, pixel-wise and mask-wise, at the sizes of the recipes. The plain
form upsamples all the slots' logits at once.
"""

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess.max_deeplab import (
    MaskResult,
    MaskWisePostProcess,
    PixelWisePostProcess,
    SlotMerge,
    slot_classes,
)
from axialseg.postprocess.panoptic_deeplab import find_centers, group_pixels, merge

KERNEL = 13
DIVISOR = 65536
STUFF_AREA = 2048
BAND = 32  # rows at a time in the plain form


class Street(NamedTuple):
    """What the heads see, at the image's size.

    Attributes:
        semantic: int64 ``[H, W]``.
        things: bool ``[H, W]``.
        heatmap: float ``[H, W]``, a Gaussian at each centre.
        offset: float ``[2, H, W]``, to the centre, with the errors of a network.
    """

    semantic: Tensor
    things: Tensor
    heatmap: Tensor
    offset: Tensor


def street(height: int, width: int, count: int, share: float) -> Street:
    """Discs of things on cells of stuff."""
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, 11, (-(-height // 64), -(-width // 64)))
    semantic = semantic.repeat(64, 0).repeat(64, 1)[:height, :width].copy()
    heatmap = np.zeros((height, width), np.float32)
    offset = rng.normal(0, 3, (2, height, width)).astype(np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = (1.05 * share * height * width / count / np.pi) ** 0.5  # they vary in size
    columns = round((count * width / height) ** 0.5)
    rows = -(-count // columns)
    for number in range(count):
        cy = int((number // columns + rng.uniform(0.3, 0.7)) * height / rows)
        cx = int((number % columns + rng.uniform(0.3, 0.7)) * width / columns)
        size = radius * rng.uniform(0.6, 1.3)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < size**2
        semantic[inside] = rng.integers(11, 19)
        offset[0][inside] += cy - y[inside]
        offset[1][inside] += cx - x[inside]
        window = np.s_[max(cy - 24, 0) : cy + 25, max(cx - 24, 0) : cx + 25]
        bump = np.exp(-((y[window] - cy) ** 2 + (x[window] - cx) ** 2) / 128)
        heatmap[window] = np.maximum(heatmap[window], bump * rng.uniform(0.2, 1.0))
    labels = torch.from_numpy(semantic)
    things = torch.from_numpy(CITYSCAPES.is_thing_table)[labels]
    return Street(labels, things, torch.from_numpy(heatmap), torch.from_numpy(offset))


def plain_group(centers: Tensor, offset: Tensor, things: Tensor) -> Tensor:
    """All distances, in bands of rows."""
    height, width = things.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target = torch.stack([y, x]).float() + offset  # [2, H, W]
    bands = []
    for band in target.split(BAND, dim=1):
        location = band.flatten(1).T[None]  # [1, P, 2]
        distance = torch.norm(centers[:, None].float() - location, dim=-1)  # [K, P]
        bands.append(distance.argmin(0).view(-1, width) + 1)
    return torch.cat(bands) * things


def plain_merge(semantic: Tensor, instance: Tensor, things: Tensor) -> Tensor:
    """Instance after instance, class after class."""
    panoptic = torch.full_like(semantic, CITYSCAPES.ignore_class * DIVISOR)
    seen: dict[int, int] = {}
    for number in dict.fromkeys(instance[things].tolist()):
        if number == 0:
            continue
        mask = (instance == number) & things
        majority = int(torch.mode(semantic[mask])[0])
        seen[majority] = seen.get(majority, 0) + 1
        panoptic[mask] = majority * DIVISOR + seen[majority]
    for label in semantic[~things].unique().tolist():
        mask = (semantic == label) & (instance == 0)
        if int(mask.sum()) >= STUFF_AREA:
            panoptic[mask] = label * DIVISOR
    return panoptic.int()


class Masks(NamedTuple):
    """Heads of MaX-DeepLab.

    Attributes:
        mask_logits: ``[1, N, h, w]``.
        class_logits: ``[1, N, classes + 1]``.
    """

    mask_logits: Tensor
    class_logits: Tensor


def masks(size: int, slots: int) -> Masks:
    """Smooth logits of which some slots are confident."""
    torch.manual_seed(0)
    coarse = torch.randn(1, slots, 12, 12) * 6
    side = (size - 1) // 4 + 1
    logits = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    classes = torch.randn(1, slots, len(COCO) + 1)
    best = torch.randint(0, len(COCO), (slots,))
    classes[0, torch.arange(slots), best] += 12.0
    classes[0, slots // 3 :, -1] += 20.0  # most slots are empty
    return Masks(logits, classes)


def plain_pixel_wise(heads: Masks, size: int) -> Tensor:
    """All slots at the image's size, a softmax over the detected ones."""
    slots = slot_classes(heads.class_logits[0])
    detected = slots.confidence >= 0.7
    logits = F.interpolate(heads.mask_logits, (size, size), mode="bilinear", align_corners=True)[0]
    among = logits.masked_fill(~detected[:, None, None], -99999.0)
    confidence, slot = among.softmax(0).max(0)
    is_best = among.max(0).values == logits.max(0).values
    confident = (confidence > 0.4) & is_best
    return SlotMerge(COCO, 100, 1600)(slot, confident, slots.class_index)[0]


Contestants = dict[str, Callable[[], object]]


def medians(contestants: Contestants, repeats: int) -> dict[str, float]:
    """Milliseconds of this process's CPU, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def once(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Milliseconds, and the result."""
    start = time.process_time()
    result = run()
    return 1e3 * (time.process_time() - start), result


def peak_memory() -> float:
    """MiB of resident memory, the highest so far."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def compare_grouping(height: int, width: int, count: int, repeats: int) -> None:
    """Prints both forms of finding, grouping and merging."""
    scene = street(height, width, count, 0.2)
    find = partial(find_centers, scene.heatmap, 0.1, KERNEL, 400)
    centers = find()
    group = partial(group_pixels, centers, scene.offset, scene.things)
    before = peak_memory()
    instance = group()
    ignore = CITYSCAPES.ignore_class
    unite = partial(merge, scene.semantic, instance, scene.things, ignore, STUFF_AREA)
    panoptic = unite()
    grown = peak_memory() - before
    times = medians({"centres": find, "grouping": group, "merging": unite}, repeats)
    plain_grouping, plain_instance = once(partial(plain_group, centers, scene.offset, scene.things))
    plain_merging, plain_panoptic = once(
        partial(plain_merge, scene.semantic, plain_instance, scene.things)
    )
    share = 100 * scene.things.float().mean()
    print(f"\n{height} x {width}, {len(centers)} centres, {share:.0f} % thing pixels")
    print(f"  {'':<24}{'ours ms':>10}{'plain ms':>11}{'x ours':>8}")
    print(f"  {'centres':<24}{times['centres']:10.1f}")
    rows = {"grouping": plain_grouping, "merging": plain_merging}
    for name, value in rows.items():
        print(f"  {name:<24}{times[name]:10.1f}{value:11.1f}{value / times[name]:8.1f}")
    total, plain_total = sum(times[name] for name in rows), sum(rows.values())
    print(f"  {'both':<24}{total:10.1f}{plain_total:11.1f}{plain_total / total:8.1f}")
    print(f"  pixels of another instance: {int((instance != plain_instance).sum())}")
    print(f"  pixels of another panoptic value: {int((panoptic != plain_panoptic).sum())}")
    print(f"  memory that ours has added: {grown:.0f} MiB")


def compare_masks(size: int, repeats: int) -> None:
    """Prints MaX-DeepLab's post-processing at a size."""
    heads = masks(size, 128)
    limits = {"thing_area_limit": 100, "stuff_area_limit": 1600}
    pixel_wise = PixelWisePostProcess(COCO, **limits)
    before = peak_memory()
    (result,) = pixel_wise(heads, (size, size))
    grown = peak_memory() - before
    assert isinstance(result, MaskResult)
    contestants: Contestants = {
        "pixel-wise": partial(pixel_wise, heads, (size, size)),
        "mask-wise": partial(MaskWisePostProcess(COCO, **limits), heads, (size, size)),
        "pixel-wise, plain": partial(plain_pixel_wise, heads, size),
    }
    times = medians(contestants, repeats)
    print(f"\nMaX-DeepLab, {size} x {size}, 128 slots" + " " * 9 + "ms   x pixel-wise")
    for name, value in times.items():
        print(f"  {name:<24}{value:13.1f}{value / times['pixel-wise']:15.1f}")
    differing = int((plain_pixel_wise(heads, size) != result.panoptic).sum())
    print(f"  pixels of another panoptic value than the plain form's: {differing}")
    print(f"  memory that ours has added: {grown:.0f} MiB")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    with torch.inference_mode():
        compare_grouping(257 if quick else 1025, 2049, 200, 3 if quick else 9)
        for size in (641,) if quick else (641, 1025):
            compare_masks(size, 3 if quick else 7)


if __name__ == "__main__":
    main()
