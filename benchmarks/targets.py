"""Training targets of one crop: ours beside the loop over instances that the authors' code has.

    python benchmarks/targets.py [--quick]

One process, one thread, the contestants take turns, medians of CPU time. The loop restates
deeplab2's data/sample_generator.py in numpy: a comparison of the whole map for each instance, its
mean position, a Gaussian, and a selection of the whole map.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.targets import MaxDeepLabTargets, PanopticDeepLabTargets
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import PanopticSegments

Targets = dict[str, NDArray]


def street(height: int, width: int, instances: int) -> PanopticSegments:
    """Stuff in cells, and boxes of things over it."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 12, (-(-height // 64), -(-width // 64)), dtype=np.int32)
    id_map = (instances + 1 + cells).repeat(64, 0).repeat(64, 1)[:height, :width].copy()
    for number in range(1, instances + 1):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        tall, wide = rng.integers(20, max(height // 5, 21), 2)
        id_map[top : top + tall, left : left + wide] = number
    things = rng.choice(COCO.thing_ids, instances)
    stuff = rng.choice(COCO.stuff_ids, 12, replace=False)
    class_ids = np.concatenate((things, stuff))
    return PanopticSegments(id_map, class_ids, np.zeros(len(class_ids), bool))


def loop_centers(
    segments: PanopticSegments, categories: Categories = COCO, sigma: float = 8.0
) -> Targets:
    """Panoptic-DeepLab's targets, instance after instance."""
    id_map = segments.id_map
    height, width = id_map.shape
    radius = int(3 * sigma + 1)
    axis = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2)).astype(np.float32)
    center = np.zeros((height + 2 * radius, width + 2 * radius), np.float32)
    offset = np.zeros((2, height, width), np.float32)
    weight = np.ones((height, width), np.float32)
    y_map, x_map = np.mgrid[:height, :width].astype(np.float32)
    is_instance = np.zeros((height, width), bool)
    for number, class_id in enumerate(segments.class_ids.tolist(), start=1):
        mask = id_map == number
        if not categories.is_thing_table[class_id] or not mask.any():
            continue
        ys, xs = np.nonzero(mask)
        y, x = int(np.rint(ys.mean())), int(np.rint(xs.mean()))
        window = center[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        np.maximum(window, gaussian, out=window)
        offset[0] = np.where(mask, y - y_map, offset[0])
        offset[1] = np.where(mask, x - x_map, offset[1])
        weight = np.where(mask & (mask.sum() < 4096), np.float32(3), weight)
        is_instance |= mask
    return {
        "semantic": segments.semantic_map(categories.ignore_class),
        "semantic_pixel_weights": weight,
        "center": center[radius:-radius, radius:-radius],
        "center_pixel_weights": (id_map > 0).astype(np.float32),
        "offset": offset,
        "offset_pixel_weights": is_instance.astype(np.float32),
    }


def loop_masks(
    segments: PanopticSegments, categories: Categories = COCO, slots: int = 128
) -> Targets:
    """MaX-DeepLab's targets, instance after instance."""
    id_map = segments.id_map
    thing_id_mask = np.full(id_map.shape, -1, np.int32)
    thing_id_class = np.full(slots, -1, np.int32)
    weight = np.ones(id_map.shape, np.float32)
    values, first = np.unique(id_map, return_index=True)
    count = 0
    for number in values[np.argsort(first)].tolist():
        if number == 0 or not categories.is_thing_table[segments.class_ids[number - 1]]:
            continue
        mask = id_map == number
        thing_id_mask = np.where(mask, count, thing_id_mask)
        weight = np.where(mask & (mask.sum() < 4096), np.float32(3), weight)
        thing_id_class[count] = segments.class_ids[number - 1]
        count += 1
    return {
        "semantic": segments.semantic_map(categories.ignore_class),
        "semantic_pixel_weights": weight,
        "thing_id_mask": thing_id_mask,
        "thing_id_class": thing_id_class,
    }


def medians(contestants: dict[str, Callable[[], Targets]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints one line per contestant, kind of targets and crop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    quick = parser.parse_args().quick
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, 1 thread, "
        f"Python {platform.python_version()}, numpy {np.__version__}"
    )
    kinds = {
        "Panoptic-DeepLab": (PanopticDeepLabTargets(small_instance_weight=3.0), loop_centers),
        "MaX-DeepLab": (MaxDeepLabTargets(small_instance_weight=3.0), loop_masks),
    }
    for height, width, count in ((641, 641, 20), (1025, 2049, 100)):
        segments = street(height, width, count)
        for kind, (targets, loop) in kinds.items():
            ours = targets(segments, COCO)
            for name, expected in loop(segments).items():
                np.testing.assert_allclose(ours[name], expected, atol=1e-6, err_msg=name)
            contestants = {
                "ours": partial(targets, segments, COCO),
                "loop over instances": partial(loop, segments),
            }
            result = medians(contestants, 3 if quick else 15)
            print(f"\n{kind}, {height} x {width}, {count} instances" + " " * 8 + "ms   x ours")
            for name, value in result.items():
                print(f"  {name:<22}{value:10.2f}{value / result['ours']:9.1f}")


if __name__ == "__main__":
    main()
