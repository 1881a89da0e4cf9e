"""Loader throughput on one core, targets included, beside a plain albumentations pipeline.

    python benchmarks/loader.py [--quick] [--coco ROOT] [--cityscapes ROOT] [--images N]

COCO's recipe at 641 x 641 and Cityscapes' at 1025 x 2049, as the configurations have them, for the
targets of both methods. Without a root, images and annotations of the real sizes are generated. One
process, one thread, ours and the others take turns on the same files; CPU time per image, medians
over rounds of all images (ratios: medians of the rounds' ratios), each image scaled and cropped at
random.

The other pipeline is what one writes first: OpenCV reads, panopticapi's formula makes ids of
colours, albumentations scales, pads, crops, flips and changes colours with the recipe's
probabilities, and the targets are made instance after instance as in deeplab2
(`benchmarks/targets.py`). It is also run with our targets, to tell the two halves apart.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import cv2
import numpy as np
import torch
from generated_data import write_cityscapes, write_coco
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from targets import loop_centers, loop_masks
from torch.utils.data import default_collate

from axialseg.build import build_training_data
from axialseg.config.auto import without_auto
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.datasets import cityscapes, coco, resampling, transforms
from axialseg.datasets.sampler import SampleKey
from axialseg.formats.cityscapes import classes_of_instance_ids
from axialseg.machine.freed_memory import keep_freed_memory
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

Stages = dict[str, float]
Targets = Callable[[PanopticSegments, Categories], dict[str, NDArray]]
METHODS = {"Panoptic-DeepLab": "axial_deeplab_l", "MaX-DeepLab": "max_deeplab_s"}
LOOPS = {"Panoptic-DeepLab": loop_centers, "MaX-DeepLab": loop_masks}


class Clock:
    """CPU seconds of each stage; of nested ones, the inner is not counted to the outer."""

    def __init__(self) -> None:
        self.seconds: Stages = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what is done inside."""
        self._inner.append(0.0)
        start = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - start
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, counted."""

        def call(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return call


class Case(NamedTuple):
    """A recipe.

    Attributes:
        name: of the data set.
        crop: height and width.
        items: our way from a key to a sample.
        other: the straightforward way, with given targets.
        images: their number.
    """

    name: str
    crop: tuple[int, int]
    items: Any
    other: Callable[[int, Targets, Clock], dict[str, NDArray]]
    images: int


def compose_case(data: str, root: Path, method: str) -> Case:
    """Our side from the configuration, the other beside it."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = [f"data={data}", f"data.root={root}", f"model={METHODS[method]}"]
        cfg = without_auto(compose("train", [*overrides, "schedule.batch_size=1"]))
    module: Any = build_training_data(cfg, world_size=1)
    module.setup("fit")
    items = module._training_items(module.train_dataset)
    crop = tuple(cfg.data.crop_size)
    read = read_coco if data == "coco" else read_cityscapes
    pipeline = albumentations_pipeline(crop, is_ranged=data == "coco")
    other = partial(straightforward, read, pipeline, module.train_dataset)
    return Case(data, crop, items, other, len(module.train_dataset))


# --- ours ---


@contextmanager
def our_stages(case: Case, clock: Clock) -> Iterator[None]:
    """Counts the parts of our loader while they run as they always do."""
    places: list[tuple[Any, str, str]] = [
        (coco, "read_rgb", "read and decode image"),
        (cityscapes, "read_rgb", "read and decode image"),
        (coco, "read_segments", "read and decode ids"),
        (cityscapes, "read_instance_ids", "read and decode ids"),
        (cityscapes, "runs_from_instance_ids", "read and decode ids"),
        (transforms, "_colored", "colour"),
        (resampling, "resample_image", "scale and crop"),
        (transforms, "resample_ids", "scale and crop"),
        (transforms, "_pad", "pad, flip, rest"),
        (case.items, "transform", "pad, flip, rest"),
        (case.items, "targets", "targets"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, clock.timed(getattr(owner, name), stage))
    try:
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def run_ours(case: Case, position: int, clock: Clock) -> dict[str, torch.Tensor]:
    """One image through our loader, to a batch of one."""
    with our_stages(case, clock):
        with clock.stage("pad, flip, rest"):
            item = case.items[SampleKey(position, position % case.images)]
        with clock.stage("collate"):
            return default_collate([item])


# --- the straightforward pipeline ---


def read_coco(dataset: Any, index: int, clock: Clock) -> tuple[NDArray, NDArray, PanopticSegments]:
    """Image, ids, and the table of segments, whose map is not yet made."""
    annotations = dataset._annotations
    with clock.stage("read and decode image"):
        image = cv2.imread(str(dataset.image_folder / str(annotations.image_files[index])))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    with clock.stage("read and decode ids"):
        colors = cv2.imread(str(dataset.panoptic_folder / str(annotations.png_files[index])))
        colors = cv2.cvtColor(colors, cv2.COLOR_BGR2RGB).astype(np.int32)
        ids = colors[..., 0] + 256 * colors[..., 1] + 256 * 256 * colors[..., 2]
    rows = slice(annotations.offsets[index], annotations.offsets[index + 1])
    table = annotations.segment_ids[rows], annotations.class_ids[rows], annotations.is_crowd[rows]
    return image, ids, PanopticSegments(*table)


def read_cityscapes(
    dataset: Any, index: int, clock: Clock
) -> tuple[NDArray, NDArray, PanopticSegments]:
    """The same; the table is made of the ids that occur."""
    item = dataset.files.item(index)
    with clock.stage("read and decode image"):
        image = cv2.imread(str(dataset.files.image(item)))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    with clock.stage("read and decode ids"):
        path = str(dataset.files.instance_ids(item))
        ids = cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(np.int32)
        values = np.unique(ids)
        classes = classes_of_instance_ids(values)
        scored = classes.class_ids != dataset.categories.ignore_class
    return image, ids, PanopticSegments(values[scored], *(column[scored] for column in classes))


def albumentations_pipeline(crop: tuple[int, ...], is_ranged: bool) -> albumentations.Compose:
    """Scale, pad, crop, flip and the recipe's colour policy at its probabilities."""
    height, width = crop
    resize = [albumentations.LongestMaxSize(height)] if is_ranged else []
    scale = (-0.5, 0.5) if is_ranged else (-0.5, 1.0)
    sharpen = partial(albumentations.Sharpen, alpha=(0.1, 0.3))
    light = partial(albumentations.RandomBrightnessContrast, 0.2, 0.2)
    policy = [
        [sharpen(p=0.4), light(p=0.2)],
        [light(p=0.2)],
        [sharpen(p=0.2), albumentations.ColorJitter(p=0.2)],
        [albumentations.Solarize(p=0.2), albumentations.Equalize(p=0.6)],
        [sharpen(p=0.2), albumentations.Equalize(p=0.2)],
    ]
    return albumentations.Compose(
        [
            *resize,
            albumentations.RandomScale(scale, p=1),
            albumentations.PadIfNeeded(
                height, width, border_mode=cv2.BORDER_CONSTANT, fill=127, fill_mask=0
            ),
            albumentations.RandomCrop(height, width),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.OneOf([albumentations.Sequential(part, p=1) for part in policy], p=1),
        ]
    )


def straightforward(
    read: Callable[..., Any],
    pipeline: albumentations.Compose,
    dataset: Any,
    position: int,
    targets: Targets,
    clock: Clock,
) -> dict[str, torch.Tensor]:
    """One image through the other pipeline, to a batch of one."""
    image, ids, table = read(dataset, position % len(dataset), clock)
    with clock.stage("albumentations"):
        pipeline.set_random_seed(position)
        crop = pipeline(image=image, mask=ids)
    with clock.stage("targets"):
        id_map = np.zeros(crop["mask"].shape, np.int32)
        for number, value in enumerate(table.id_map.tolist(), start=1):
            id_map[crop["mask"] == value] = number
        segments = table._replace(id_map=id_map)
        item = targets(segments, dataset.categories)
    with clock.stage("collate"):
        item["image"] = np.ascontiguousarray(crop["image"].transpose(2, 0, 1))
        return default_collate([item])


class Result(NamedTuple):
    """What a contestant took.

    Attributes:
        seconds: per image, median over rounds.
        ratio: of its time and ours, median of those of the rounds.
        stages: seconds per image of each stage, mean.
    """

    seconds: float
    ratio: float
    stages: Stages


def measure(case: Case, method: str, rounds: int) -> dict[str, Result]:
    """Every contestant on the same images, in turn."""
    loop: Targets = LOOPS[method]
    contestants: dict[str, Callable[[int, Clock], Any]] = {
        "ours": partial(run_ours, case),
        "albumentations": lambda position, clock: case.other(position, loop, clock),
        "  with our targets": lambda position, clock: case.other(
            position, case.items.targets, clock
        ),
    }
    clocks = {name: Clock() for name in contestants}
    totals: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():  # imports, caches
        run(0, Clock())
    for number in range(rounds):
        spent = dict.fromkeys(contestants, 0.0)
        for index in range(case.images):
            for name, run in contestants.items():
                start = time.process_time()
                run(number * case.images + index, clocks[name])
                spent[name] += time.process_time() - start
        for name, seconds in spent.items():
            totals[name].append(seconds / case.images)
    images = rounds * case.images
    return {
        name: Result(
            statistics.median(totals[name]),
            statistics.median(s / o for s, o in zip(totals[name], totals["ours"], strict=True)),
            {stage: s / images for stage, s in clocks[name].seconds.items()},
        )
        for name in contestants
    }


def show(case: Case, method: str, results: dict[str, Result]) -> None:
    """Prints the stages, and the ratios."""
    print(f"\n{case.name}, {case.crop[0]} x {case.crop[1]}, {method}: CPU ms per image")
    stages = list(dict.fromkeys(stage for result in results.values() for stage in result.stages))
    print(" " * 24 + "".join(f"{name.strip():>18}" for name in results))
    for stage in stages:
        cells = (
            f"{1e3 * result.stages[stage]:18.2f}" if stage in result.stages else f"{'':18}"
            for result in results.values()
        )
        print(f"  {stage:<22}" + "".join(cells))
    rows = {
        "all": [f"{1e3 * result.seconds:.2f}" for result in results.values()],
        "images/s": [f"{1 / result.seconds:.1f}" for result in results.values()],
        "time of ours": [f"{result.ratio:.2f}x" for result in results.values()],
    }
    for name, cells in rows.items():
        print(f"  {name:<22}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    """Prints a table for each recipe and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--coco", type=Path, help="root of the real data set")
    parser.add_argument("--cityscapes", type=Path, help="root of the real data set")
    parser.add_argument("--images", type=int, help="images to generate of each data set")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()  # as in a loader's process
    torch.set_num_threads(1)
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, 1 thread, "
        f"Python {platform.python_version()}, OpenCV {cv2.__version__}, "
        f"albumentations {albumentations.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        roots = {"coco": options.coco, "cityscapes": options.cityscapes}
        writers = {"coco": (write_coco, 24, "val2017"), "cityscapes": (write_cityscapes, 6, "val")}
        for data, root in roots.items():
            if root is None:
                write, count, val = writers[data]
                roots[data] = Path(folder) / data
                count = options.images or (count // 3 if options.quick else count)
                write(roots[data], count)
                write(roots[data], 1, val)
        rounds = {"coco": 1 if options.quick else 7, "cityscapes": 1 if options.quick else 5}
        for data, root in roots.items():
            for method in METHODS:
                case = compose_case(data, root, method)
                show(case, method, measure(case, method, rounds[data]))


if __name__ == "__main__":
    main()
