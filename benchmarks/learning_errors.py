"""What a trained Panoptic-DeepLab model loses, and by which head.

    python benchmarks/learning_errors.py RUN [--images N]
    python benchmarks/learning_errors.py --quick

RUN is the folder of a run; its newest checkpoint is scored on the first images of the training and
of the validation data, without augmentation. Training and validation alike: the model has not
learned enough; training far better: it knows the images by heart. Then it is given the ground truth
of one head at a time. What that adds is what the head costs. Missed things are counted by what the
prediction has in their place, and by their size. ``--quick`` trains for two steps first.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

import axialseg
from axialseg.build import build_panoptic_dataset
from axialseg.datasets.targets import PanopticDeepLabTargets
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.inference.loaded_model import LoadedModel
from axialseg.layers.resize import resize_nearest
from axialseg.metrics.panoptic_quality import (
    PanopticQuality,
    PanopticQualityResult,
    match_segments,
)
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map
from axialseg.postprocess.restore import restore_labels

SIZES = ("small", "medium", "large")  # under 150, under 500 pixels, and more
SEMANTIC, CENTER, OFFSET = "semantic", "center", "offset"
ORACLES: dict[str, tuple[str, ...]] = {
    "as predicted": (),
    "true semantics": (SEMANTIC,),
    "true centres": (CENTER,),
    "true offsets": (OFFSET,),
    "true centres and offsets": (CENTER, OFFSET),
    "all three true": (SEMANTIC, CENTER, OFFSET),
}


class Example(NamedTuple):
    """An image's heads and their ground truth at the evaluation's size; segments at the file's."""

    heads: PanopticHeads
    truth: dict[str, Tensor]
    segments: PanopticSegments


@torch.inference_mode()
def examples(model: LoadedModel, split: str, images: int) -> Iterator[Example]:
    """The first images of a split."""
    assert isinstance(model.categories, Categories)
    dataset = build_panoptic_dataset(OmegaConf.create(model.config["data"]), split)
    targets = PanopticDeepLabTargets(sigma=model.config["model"]["targets"]["sigma"])
    for index in range(min(images, len(dataset))):
        sample = dataset.read(index)
        assert sample.segments is not None
        prepared, (height, width) = model.transform(sample.image)
        image = torch.from_numpy(prepared.image).permute(2, 0, 1)[None]
        valid = torch.from_numpy(prepared.valid)[None]
        heads = model.net(image, valid).resized(prepared.valid.shape)
        cut = PanopticHeads(*(head[..., :height, :width] for head in heads))
        id_map = resize_nearest(torch.tensor(sample.segments.id_map), (height, width))
        truth = targets(sample.segments._replace(id_map=id_map.numpy()), model.categories)
        yield Example(
            cut,
            {name: torch.from_numpy(np.asarray(v)) for name, v in truth.items()},
            sample.segments,
        )


def panoptic(model: LoadedModel, example: Example, oracles: tuple[str, ...]) -> NDArray[np.int32]:
    """The panoptic map at the file's size, with the ground truth in place of some heads."""
    assert isinstance(model.categories, Categories)
    heads, truth = example.heads, example.truth
    semantic = heads.semantic[0].argmax(0)
    if SEMANTIC in oracles:
        is_known = truth["semantic"] != model.categories.ignore_class
        semantic = torch.where(is_known, truth["semantic"].long(), semantic)
    center = truth["center"] if CENTER in oracles else heads.center[0, 0]
    offset = truth["offset"].float() if OFFSET in oracles else heads.offset[0]
    found = model.postprocess.single(semantic, center, offset).panoptic
    height, width = found.shape
    return restore_labels(found, (height, width), example.segments.id_map.shape).numpy()


def confusions(
    prediction: PanopticSegments, target: PanopticSegments, count: Counter[tuple[str, str]]
) -> None:
    """Counts what became of each missed segment: the same mask by another name, or a worse one."""
    overlap = segment_overlap(prediction, target)
    for row in match_segments(overlap).missed.tolist():
        shared = overlap.pixels[row + 1, 1:]
        if not len(shared):
            continue
        best = int(shared.argmax())
        area = int(overlap.target_area[row])
        iou = shared[best] / (area + overlap.predicted_area[best] - shared[best])
        kind = "wrong class" if iou > 0.5 else "poor mask" if iou > 0.2 else "no mask"
        count[kind, SIZES[(area >= 150) + (area >= 500)]] += 1


def quality(result: PanopticQualityResult) -> str:
    """PQ of all, things and stuff."""
    return "  ".join(
        f"{100 * group.pq:5.1f}" for group in (result.all, result.things, result.stuff)
    )


def report(run: str, images: int) -> None:
    """Prints the tables of a run."""
    model = axialseg.load(run)
    categories = model.categories
    assert isinstance(categories, Categories)
    for split in ("train", "val"):
        shown = list(examples(model, split, images))
        print(f"{f'{split}: {len(shown)} images':28}   PQ  things  stuff")
        for name, oracles in ORACLES.items():
            metric, count = PanopticQuality(categories), Counter[tuple[str, str]]()
            for example in shown:
                found = segments_from_panoptic_map(
                    panoptic(model, example, oracles), categories.ignore_class
                )
                metric.update(segment_overlap(found, example.segments))
                if not oracles:
                    confusions(found, example.segments, count)
            print(f"  {name:26}{quality(metric.compute())}")
            for what in sorted({what for what, _ in count}):
                sizes = ", ".join(f"{count[what, size]} {size}" for size in SIZES)
                print(f"    missed, {what + ':':14}{sizes}")


def short_run(folder: str) -> str:
    """Two steps of the default job on a few images."""
    train = Path(__file__).resolve().parents[1] / "train.py"
    small = ["data.crop_size=[33,33]", "schedule.batch_size=2", "schedule.warmup_steps=0"]
    counts = [
        f"+data.{split}_dataset.{count}"
        for split in ("train", "val")
        for count in ("train_images=4", "val_images=4")
    ]
    where = [f"data.root={folder}/shapes", f"hydra.run.dir={folder}/run", "hardware=cpu"]
    steps = ["trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.images=null"]
    command = [sys.executable, str(train), *small, *counts, *where, *steps]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return f"{folder}/run"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="folder of a run")
    parser.add_argument("--images", type=int, default=64, help="of each split")
    parser.add_argument("--quick", action="store_true", help="two steps, four images")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            report(short_run(folder), 4)
    elif options.run is None:
        parser.error("give the folder of a run")
    else:
        report(options.run, options.images)


if __name__ == "__main__":
    main()
