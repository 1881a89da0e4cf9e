"""Panoptic quality of one image, and of a folder of files: ours beside what there is.

    python benchmarks/panoptic_quality.py [--quick]

One image: array work only, no file is read. One process, one thread, its CPU time; the contestants
take turns, medians.
`ours` starts from a predicted panoptic map, so its conversion to segments is included; the ground
truth has dense numbers already, as the reader delivers it.
`official rule` restates what cocodataset/panopticapi does with the decoded maps: two sorts of all
pixels, then Python loops over the pairs.

Files: the same pictures as COCO's panoptic JSON and PNGs, on all cores; wall-clock and CPU time of
one evaluation, medians in turns. `hotcoco` is written in Rust, uses all cores as well, and counts
PQ alone; `ours` counts PQ and mIoU, and with scores mask AP as well. On a machine that is busy with
other work, the CPU time is the one to compare.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from hotcoco.panoptic import pq_compute
from numpy.typing import NDArray
from torchmetrics.detection import PanopticQuality as PeerPanopticQuality

from axialseg.datasets.coco import CocoPanoptic
from axialseg.evaluation.rescoring import PredictionFiles, rescore
from axialseg.evaluation.summary import summarize
from axialseg.formats.coco_panoptic import (
    color_like_ids,
    official_categories,
    segments_info,
    write_id_png,
)
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import (
    CLASS_DIVISOR,
    PanopticSegments,
    segments_from_panoptic_map,
)

Map = NDArray[np.int32]
Classes = dict[int, int]  # id -> class
Contestants = dict[str, Callable[[], float]]
ID_OFFSET = 256**3


def blobs(rng: np.random.Generator, height: int, width: int, count: int) -> tuple[Map, Map]:
    """Panoptic maps of `count` cells around random points, and of the same with moved points."""
    points = rng.random((count, 2)) * (height, width)
    moved = points + rng.normal(0, 0.02 * width, points.shape)
    class_ids = rng.choice(COCO.class_ids, count)
    instances = np.where(COCO.is_thing_table[class_ids], np.arange(1, count + 1), 0)
    values = (class_ids * CLASS_DIVISOR + instances).astype(np.int32)
    y, x = np.mgrid[:height, :width]
    truth, prediction = (
        values[((y[..., None] - p[:, 0]) ** 2 + (x[..., None] - p[:, 1]) ** 2).argmin(-1)]
        for p in (points, moved)
    )
    return truth, prediction


def official_rule(truth: Map, prediction: Map, truth_class: Classes, classes: Classes) -> float:
    """The official scorer's steps without crowds and files; returns the sum of the matches' IoU."""
    area = dict(zip(*(v.tolist() for v in np.unique(prediction, return_counts=True)), strict=True))
    codes = truth.astype(np.uint64) * np.uint64(ID_OFFSET) + prediction.astype(np.uint64)
    pairs: dict[tuple[int, int], int] = {}
    truth_area: dict[int, int] = {}
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        pair = int(code) // ID_OFFSET, int(code) % ID_OFFSET
        pairs[pair] = int(count)
        truth_area[pair[0]] = truth_area.get(pair[0], 0) + int(count)
    total = 0.0
    for (t, p), both in pairs.items():
        if truth_class.get(t) != classes.get(p) or t not in truth_class:
            continue
        iou = both / (area[p] + truth_area[t] - both - pairs.get((0, p), 0))
        total += iou if iou > 0.5 else 0
    return total


def dense_ids(panoptic_map: Map) -> tuple[Map, Classes]:
    """The map with the ids that a PNG would hold, and their classes."""
    segments = segments_from_panoptic_map(panoptic_map, COCO.ignore_class)
    ids = np.arange(len(segments.class_ids) + 1) * 65793 % ID_OFFSET
    classes = dict(zip(ids[1:].tolist(), segments.class_ids.tolist(), strict=True))
    return ids.astype(np.int32)[segments.id_map], classes


def ours(metric: PanopticQuality, target: PanopticSegments, prediction: Map) -> float:
    """Our metric on one image; returns the sum of the matches' IoU."""
    metric.reset()
    metric.update(
        segment_overlap(segments_from_panoptic_map(prediction, COCO.ignore_class), target)
    )
    return float(metric.iou.sum())


def torchmetrics_peer(truth: Map, prediction: Map) -> float:
    """The peer's metric on one image; returns the sum of the matches' IoU."""
    metric = PeerPanopticQuality(
        set(COCO.thing_ids), set(COCO.stuff_ids), allow_unknown_preds_category=True
    )
    metric.update(
        *(
            torch.from_numpy(np.stack(np.divmod(panoptic_map, CLASS_DIVISOR), -1))[None]
            for panoptic_map in (prediction, truth)
        )
    )
    return float(metric.iou_sum.sum())


def write_files(folder: Path, images: int, height: int, width: int, count: int) -> None:
    """Ground truth and predictions, with scores, in COCO's panoptic format."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    maps = [blobs(rng, height, width, count) for _ in range(images)]
    listed = [
        {"id": n, "file_name": f"{n}.jpg", "height": height, "width": width} for n in range(images)
    ]
    for which, name in enumerate(("truth", "predictions")):
        (folder / name).mkdir()
        annotations = []
        for number, pair in enumerate(maps):
            segments = segments_from_panoptic_map(pair[which], COCO.ignore_class)
            ids = color_like_ids(segments.class_ids, COCO)
            write_id_png(folder / name / f"{number}.png", segments, ids)
            rows = segments_info(segments, ids, COCO)
            for row in rows if which else []:
                row["score"] = float(rng.random())
            annotations.append(
                {"image_id": number, "file_name": f"{number}.png", "segments_info": rows}
            )
        content = {"images": listed, "annotations": annotations}
        content["categories"] = official_categories(COCO)
        (folder / f"{name}.json").write_text(json.dumps(content))


def ours_on_files(folder: Path, with_scores: bool) -> float:
    """Reads and scores all; returns PQ."""
    dataset = CocoPanoptic(folder, "images", "truth.json", "truth", COCO)
    images = rescore(dataset, PredictionFiles(folder / "predictions.json", COCO))
    if not with_scores:
        images = [image._replace(scores=None) for image in images]
    return summarize(images, COCO).quality.all.pq


def hotcoco_on_files(folder: Path) -> float:
    """The peer on the same files; returns PQ."""
    with contextlib.redirect_stdout(io.StringIO()):
        return float(
            pq_compute(str(folder / "truth.json"), str(folder / "predictions.json"))["All"]["pq"]
        )


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def compare_on_files(images: int, height: int, width: int, count: int, repeats: int) -> None:
    """Prints one line per contestant."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, images, height, width, count)
        contestants: Contestants = {
            "ours": partial(ours_on_files, folder, with_scores=False),
            "ours, with AP": partial(ours_on_files, folder, with_scores=True),
            "hotcoco": partial(hotcoco_on_files, folder),
        }
        qualities = [run() for run in contestants.values()]
        np.testing.assert_allclose(qualities, qualities[0], rtol=1e-9)
        wall: dict[str, list[float]] = {name: [] for name in contestants}
        busy: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(repeats):
            for name, run in contestants.items():
                start, start_busy = time.perf_counter(), cpu_seconds()
                run()
                wall[name].append(time.perf_counter() - start)
                busy[name].append(cpu_seconds() - start_busy)
    print(f"\n{images} files of {height} x {width}    s wall    s CPU   x hotcoco (wall, CPU)")
    times = {n: (statistics.median(wall[n]), statistics.median(busy[n])) for n in contestants}
    for name, (seconds, cpu) in times.items():
        peer = times["hotcoco"]
        print(f"  {name:<22}{seconds:10.2f}{cpu:9.2f}{seconds / peer[0]:9.2f}{cpu / peer[1]:7.2f}")


def medians(contestants: Contestants, repeats: int) -> dict[str, float]:
    """Median milliseconds of CPU time of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints one line per contestant and image size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no large image")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, 1 thread, "
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    )
    for height, width, count in ((480, 640, 15),) if quick else ((480, 640, 15), (1024, 2048, 60)):
        truth, prediction = blobs(np.random.default_rng(0), height, width, count)
        target = segments_from_panoptic_map(truth, COCO.ignore_class)
        truth_ids, truth_class = dense_ids(truth)
        ids, classes = dense_ids(prediction)
        contestants: Contestants = {
            "ours": partial(ours, PanopticQuality(COCO), target, prediction),
            "official rule": partial(official_rule, truth_ids, ids, truth_class, classes),
        }
        slow: Contestants = {}
        if height * width < 500_000:  # it takes minutes for a larger image
            slow = {"torchmetrics": partial(torchmetrics_peer, truth, prediction)}
        sums = [run() for run in (contestants | slow).values()]
        np.testing.assert_allclose(sums, sums[0], rtol=1e-6)
        result = medians(contestants, 7 if quick else 25) | medians(slow, 1 if quick else 3)
        print(f"\n{height} x {width}, {count} segments" + " " * 8 + "ms   x ours")
        for name, value in result.items():
            print(f"  {name:<22}{value:10.2f}{value / result['ours']:9.1f}")
    compare_on_files(20 if quick else 200, 480, 640, 15, 3 if quick else 7)
    if not quick:
        compare_on_files(40, 1024, 2048, 60, 5)


if __name__ == "__main__":
    main()
