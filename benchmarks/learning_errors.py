"""What a trained Panoptic-DeepLab model loses, and by which head: oracle scores of a run.

``python benchmarks/learning_errors.py run=outputs/...`` scores the run's newest checkpoint on
training and on validation images without augmentation, then gives it the ground truth of one head
at a time. The difference to the first row is what that head costs. ``images=64`` of each split.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

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
from axialseg.metrics.panoptic_quality import (
    PanopticQuality,
    PanopticQualityResult,
    match_segments,
)
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map

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
    """An image's heads at its size, and its ground truth."""

    heads: PanopticHeads
    truth: dict[str, Tensor]
    segments: PanopticSegments


@torch.inference_mode()
def examples(model: LoadedModel, split: str, images: int) -> Iterator[Example]:
    """The first images of a split that keep their size in the evaluation."""
    dataset = build_panoptic_dataset(OmegaConf.create(model.config["data"]), split)
    targets = PanopticDeepLabTargets(sigma=model.config["model"]["targets"]["sigma"])
    for index in range(min(images, len(dataset))):
        sample = dataset.read(index)
        prepared, _ = model.transform(sample.image)
        image = torch.from_numpy(prepared.image).permute(2, 0, 1)[None]
        valid = torch.from_numpy(prepared.valid)[None]
        height, width = sample.image.shape[:2]
        heads = model.net(image, valid).resized(prepared.valid.shape)
        cut = PanopticHeads(*(head[..., :height, :width] for head in heads))
        truth = targets(sample.segments, model.categories)
        yield Example(
            cut, {name: torch.from_numpy(np.asarray(v)) for name, v in truth.items()},
            sample.segments,
        )


def panoptic(model: LoadedModel, example: Example, oracles: tuple[str, ...]) -> NDArray[np.int32]:
    """The panoptic map with the ground truth in place of some heads."""
    heads, truth = example.heads, example.truth
    semantic = heads.semantic[0].argmax(0)
    if SEMANTIC in oracles:
        is_known = truth["semantic"] != model.categories.ignore_class
        semantic = torch.where(is_known, truth["semantic"].long(), semantic)
    center = truth["center"] if CENTER in oracles else heads.center[0, 0]
    offset = truth["offset"].float() if OFFSET in oracles else heads.offset[0]
    return model.postprocess.single(semantic, center, offset).panoptic.numpy()


def confusions(prediction: PanopticSegments, target: PanopticSegments, count: Counter) -> None:
    """Counts what became of each missed thing: the same mask by another name, or no mask."""
    overlap = segment_overlap(prediction, target)
    for row in match_segments(overlap).missed.tolist():
        shared = overlap.pixels[row + 1, 1:]
        if not len(shared):
            count["missed", "alone"] += 1
            continue
        best = int(shared.argmax())
        union = overlap.target_area[row] + overlap.predicted_area[best] - shared[best]
        iou = shared[best] / union
        size = int(overlap.target_area[row])
        kind = "wrong class" if iou > 0.5 else "poor mask" if iou > 0.2 else "no mask"
        count[kind, "small" if size < 150 else "medium" if size < 500 else "large"] += 1


def quality(result: PanopticQualityResult) -> str:
    """PQ of all, things and stuff."""
    return "  ".join(f"{100 * group.pq:5.1f}" for group in (result.all, result.things, result.stuff))


def main(arguments: list[str]) -> None:
    """Prints the tables."""
    given = dict(argument.split("=", 1) for argument in arguments)
    model = axialseg.load(given["run"])
    for split in ("train", "val"):
        shown = list(examples(model, split, int(given.get("images", 64))))
        print(f"{split}: {len(shown)} images      PQ  things  stuff")
        for name, oracles in ORACLES.items():
            metric, count = PanopticQuality(model.categories), Counter[Any]()
            for example in shown:
                found = segments_from_panoptic_map(
                    panoptic(model, example, oracles), model.categories.ignore_class
                )
                metric.update(segment_overlap(found, example.segments))
                if not oracles:
                    confusions(found, example.segments, count)
            print(f"  {name:26}{quality(metric.compute())}")
            if count:
                print("   ", dict(sorted(count.items())))


if __name__ == "__main__":
    main(sys.argv[1:])
