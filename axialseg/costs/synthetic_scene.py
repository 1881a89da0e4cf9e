"""A scene without files, and heads that see it perfectly, for benchmarks.

What a loss and a post-processing cost depends on how many things there are; random heads would
show none, or hundreds. This scene has as many as a street of Cityscapes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from axialseg.decoders.max_deeplab import KMaxHeads, MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.layers.resize import resize_bilinear, resize_nearest, resize_offsets
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

THINGS = 20
STUFF = 8
CELLS = (4, 8)  # of stuff, down and across
SURE = 20.0  # a logit, where the others are 0


def scene(categories: Categories, size: tuple[int, int], seed: int = 0) -> PanopticSegments:
    """Cells of stuff with boxes of things on them, one partly over the other.

    Args:
        categories: the classes; without stuff, what lies between the things is void.
        size: (height, width).
        seed: another one makes another scene.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    stuff = rng.permutation(categories.stuff_ids)[:STUFF]
    cells = rng.integers(1, len(stuff) + 1, CELLS) if len(stuff) else np.zeros(CELLS)
    rows, columns = (np.arange(n) * count // n for n, count in zip(size, CELLS, strict=True))
    id_map = cells[rows[:, None], columns].astype(np.int32)
    things = rng.choice(categories.thing_ids, THINGS if categories.thing_ids else 0)
    for number in range(len(stuff) + 1, len(stuff) + len(things) + 1):
        tall, wide = (int(rng.integers(n // 16, n // 4 + 1)) + 1 for n in size)
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        id_map[top : top + tall, left : left + wide] = number
    class_ids = np.concatenate((stuff, things)).astype(np.int64)
    return PanopticSegments(id_map, class_ids, np.zeros(len(class_ids), bool))


def perfect_outputs(like: Any, targets: Mapping[str, Tensor], categories: Categories) -> Any:
    """The heads of a network that sees what the targets say.

    Args:
        like: heads of the network for the images, of which only type and shapes matter.
        targets: of the images, each ``[B, ...]``, see `axialseg.datasets.targets`.
        categories: the classes.

    Raises:
        TypeError: `like` is of neither method.
    """
    if isinstance(like, PanopticHeads):
        return _perfect_centers(like, targets)
    if isinstance(like, MaskHeads | KMaxHeads):
        return _perfect_masks(like, targets, categories)
    raise TypeError(f"{type(like).__name__} is not an output of a panoptic network")


def _perfect_centers(like: PanopticHeads, targets: Mapping[str, Tensor]) -> PanopticHeads:
    size = _size(like.semantic)
    center = resize_bilinear(targets["center"].unsqueeze(1), size)
    # A slope: a centre between two positions would otherwise be a line of equal maxima.
    center += 1e-3 * torch.linspace(0, 1, size[1]) + 7e-4 * torch.linspace(0, 1, size[0])[:, None]
    return PanopticHeads(
        _sure_of_classes(like.semantic, targets["semantic"]),
        center,
        resize_offsets(targets["offset"].float(), size),
    )


def _perfect_masks(
    like: MaskHeads | KMaxHeads, targets: Mapping[str, Tensor], categories: Categories
) -> MaskHeads | KMaxHeads:
    """Things get the first slots in the order of their numbers, then come classes of stuff."""
    batch, slots, classes = like.class_logits.shape
    semantic, things = targets["semantic"], targets["thing_id_mask"].long()
    position = {class_id: k for k, class_id in enumerate(categories.thing_ids)}
    position |= {class_id: k for k, class_id in enumerate(categories.stuff_ids, len(position))}
    slot_class = torch.full((batch, slots), classes - 1)  # no object
    slot_map = torch.full_like(things, slots - 1)
    for image in range(batch):
        of_things = [c for c in targets["thing_id_class"][image].tolist() if c >= 0]
        present = set(semantic[image].unique().tolist())
        of_stuff = [c for c in categories.stuff_ids if c in present]
        for slot, class_id in enumerate([*of_things, *of_stuff][: slots - 1]):
            is_stuff = slot >= len(of_things)
            where = semantic[image] == class_id if is_stuff else things[image] == slot
            slot_map[image][where] = slot
            slot_class[image, slot] = position[class_id]
    near = resize_nearest(slot_map, _size(like.mask_logits))
    return like._replace(
        mask_logits=SURE * F.one_hot(near, slots).permute(0, 3, 1, 2).float(),
        class_logits=SURE * F.one_hot(slot_class, classes).float(),
        pixel_embedding=torch.zeros(like.pixel_embedding.shape),
        semantic=_sure_of_classes(like.semantic, semantic),
    )


def _sure_of_classes(like: Tensor, semantic: Tensor) -> Tensor:
    """Logits ``[B, C, h, w]`` of the classes ``[B, H, W]``; void is 0 everywhere."""
    near = resize_nearest(semantic.long(), _size(like))
    one_hot = F.one_hot(near, int(max(like.shape[1], int(near.max()) + 1)))
    return SURE * one_hot[..., : like.shape[1]].permute(0, 3, 1, 2).float()


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
