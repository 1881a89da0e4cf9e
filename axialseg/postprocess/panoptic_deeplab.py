"""From Panoptic-DeepLab's heads to a panoptic map: grouping and merging.

Source: Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.1; deeplab2
``model/post_processor/panoptic_deeplab.py``, with ``merge_semantic_and_instance_maps``. Memory is
O(HW) in the number of centres, and the same code runs on a CPU and on a GPU.
"""

from copy import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.restore import restore_labels, restore_values

# Distances held at a time while grouping; about what stays in a core's cache.
_DISTANCES_AT_A_TIME = 1 << 19
_CELL = 16  # side of the cells, in pixels, for which the possible centres are found first
_FEW = 6  # centres of a cell, up to which only those are compared


class PanopticResult(NamedTuple):
    """What a post-processing returns for one image.

    Attributes:
        panoptic: int32 ``[H, W]``, class * CLASS_DIVISOR + instance.
        semantic: int32 ``[H, W]``, class ids.
        instance: int32 ``[H, W]``, number of a thing pixel's centre, from 1; elsewhere 0.
        instance_score: float32 ``[H, W]``, heat-map value at that centre; else 0.
        semantic_logits: ``[K, H, W]``, what the classes were chosen by; None if not known.
        removed: name of a limit -> how many segments of each class it has removed, int64
            ``[C]`` by class id.
        capacity: things that can be predicted for an image; None: any number.
    """

    panoptic: Tensor
    semantic: Tensor
    instance: Tensor
    instance_score: Tensor
    semantic_logits: Tensor | None
    removed: dict[str, Tensor]
    capacity: int | None

    def score_maps(self, panoptic: Tensor, resized: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores of the pixels' classes and of their instances; both float32 ``[H', W']``.

        Args:
            panoptic: the panoptic map at the size wanted, ``[H', W']``.
            resized: (height, width) of the image in the maps here, without padding.
        """
        assert self.semantic_logits is not None
        size = (panoptic.shape[0], panoptic.shape[1])
        logits = self.semantic_logits.float()
        normalizer = logits.logsumexp(0)
        classes = panoptic // CLASS_DIVISOR
        class_score = torch.zeros(size, device=panoptic.device)
        for class_id in classes.unique().tolist():
            if class_id < len(logits):
                probability = (logits[class_id] - normalizer).exp()
                restored = restore_values(probability[None], resized, size)[0]
                class_score = torch.where(classes == class_id, restored, class_score)
        instance_score = restore_labels(self.instance_score, resized, size)
        is_thing = panoptic % CLASS_DIVISOR > 0  # stuff has no instance to be sure of
        return class_score, torch.where(is_thing, instance_score, 1.0)


class PanopticDeepLabPostProcess:
    """Finds centres, groups thing pixels to them and merges with the semantic prediction.

    Args:
        categories: the classes; tells things from stuff, and void.
        center_threshold: heat-map values up to this are no centres.
        nms_kernel: side of the window in which a centre is the maximum, in pixels (13 for
            Cityscapes, 41 for COCO at 641).
        keep_centers: at most this many centres, the best; None keeps all.
        stuff_area_limit: stuff classes with fewer pixels in the image become void (2048 for
            Cityscapes, 4096 for COCO at 641).
    """

    def __init__(
        self,
        categories: Categories,
        center_threshold: float = 0.1,
        nms_kernel: int = 13,
        keep_centers: int | None = 400,
        stuff_area_limit: int = 0,
    ) -> None:
        self.center_threshold = center_threshold
        self.nms_kernel = nms_kernel
        self.keep_centers = keep_centers
        self.stuff_area_limit = stuff_area_limit
        self.ignore_class = categories.ignore_class
        self.is_thing = torch.from_numpy(categories.is_thing_table)

    def __call__(self, outputs: PanopticHeads, size: tuple[int, int]) -> list[PanopticResult]:
        """Results of each image at the size (H, W); `outputs` are raw heads at any resolution."""
        heads = outputs.resized(size)
        images = zip(heads.semantic, heads.center.float(), heads.offset.float(), strict=True)
        return [
            self.single(logits.float().argmax(0), center[0], offset)._replace(
                semantic_logits=logits
            )
            for logits, center, offset in images
        ]

    def single(self, semantic: Tensor, center: Tensor, offset: Tensor) -> PanopticResult:
        """One image.

        Args:
            semantic: int64 ``[H, W]``, predicted class ids.
            center: float ``[H, W]``, centre heat-map.
            offset: float ``[2, H, W]``, (dy, dx) to the centre in pixels.
        """
        found = find_centers(center, self.center_threshold, self.nms_kernel, None)
        centers = best_centers(center, found, self.keep_centers)
        things = self.is_thing.to(semantic.device)[semantic]
        instance = group_pixels(centers, offset, things)
        scores = torch.cat([center.new_zeros(1), center[centers[:, 0], centers[:, 1]]])
        panoptic = merge(semantic, instance, things, self.ignore_class, self.stuff_area_limit)
        return PanopticResult(
            panoptic,
            semantic.int(),
            instance.int(),
            scores[instance],
            None,
            self._removed(semantic, things, found, centers),
            self.keep_centers,
        )

    def _removed(
        self, semantic: Tensor, things: Tensor, found: Tensor, kept: Tensor
    ) -> dict[str, Tensor]:
        """See `PanopticResult`; things without any centre count as one segment of their class."""
        pixels = torch.bincount(semantic.flatten(), minlength=len(self.is_thing))
        is_thing = self.is_thing.to(pixels.device)
        is_stuff = ~is_thing
        is_stuff[self.ignore_class] = False
        dropped = [
            torch.bincount(classes[is_thing[classes]], minlength=len(pixels))
            for classes in (semantic[found[:, 0], found[:, 1]], semantic[kept[:, 0], kept[:, 1]])
        ]
        is_small = is_stuff & (pixels > 0) & (pixels < self.stuff_area_limit)
        is_lost = is_thing & (pixels > 0) & (len(found) == 0)
        return {
            "stuff_area_limit": is_small.long(),
            "center_threshold": is_lost.long(),
            "keep_centers": dropped[0] - dropped[1],
        }

    @property
    def area_limits(self) -> dict[str, int]:
        """Name of a limit -> pixels, fewer than which a segment of its kind may not have."""
        return {"stuff_area_limit": self.stuff_area_limit}

    def without_area_limits(self) -> "PanopticDeepLabPostProcess":
        """The same for a part of an image, whose segments may go on outside of it."""
        unlimited = copy(self)
        unlimited.stuff_area_limit = 0
        return unlimited


def find_centers(
    heatmap: Tensor, threshold: float, nms_kernel: int, keep_centers: int | None
) -> Tensor:
    """Local maxima of a heat-map ``[H, W]``, int64 ``[K, 2]`` (y, x) in row-major order.

    Equal neighbours all survive; of more than `keep_centers` the best, see `best_centers`.
    """
    scores = torch.where(heatmap > threshold, heatmap, 0.0)
    is_center = (scores == window_maximum(scores[None], nms_kernel)[0]) & (scores > 0)
    return best_centers(scores, is_center.nonzero(), keep_centers)


def window_maximum(scores: Tensor, kernel: int) -> Tensor:
    """Largest value of the `kernel` x `kernel` pixels around each, 0 at least; ``[B, H, W]``."""
    before = (kernel - 1) // 2
    after = kernel - 1 - before
    padded = F.pad(scores[:, None], (before, after, before, after))
    # The maximum over a square is the maximum over its rows, then its columns.
    return F.max_pool2d(F.max_pool2d(padded, (kernel, 1), 1), (1, kernel), 1)[:, 0]


def best_centers(heatmap: Tensor, centers: Tensor, keep_centers: int | None) -> Tensor:
    """At most `keep_centers` of the centres ``[K, 2]``.

    If there are more, those whose score is strictly above the `keep_centers`-th best remain, which
    can be fewer (as in the original).
    """
    if keep_centers is None or len(centers) <= keep_centers:
        return centers
    scores = heatmap[centers[:, 0], centers[:, 1]]
    return centers[scores > scores.topk(keep_centers).values[-1]]


def group_pixels(centers: Tensor, offset: Tensor, things: Tensor) -> Tensor:
    """Assigns each thing pixel to the centre nearest to where its offset points.

    Args:
        centers: int64 ``[K, 2]`` (y, x).
        offset: float ``[2, H, W]``, (dy, dx).
        things: bool ``[H, W]``; other pixels get 0.

    Returns:
        int64 ``[H, W]``, 1 + index of the centre, the first one on ties; all 0 without a centre.
    """
    instance = torch.zeros(things.shape, dtype=torch.long, device=things.device)
    if len(centers) == 0:
        return instance
    pixels = things.nonzero()
    target = pixels + offset[:, things].T  # [P, 2]
    instance[things] = _nearest(target, centers, (things.shape[0], things.shape[1])) + 1
    return instance


def _nearest(target: Tensor, centers: Tensor, size: tuple[int, int]) -> Tensor:
    """Index of the centre ``[K, 2]`` nearest to each target ``[P, 2]``; int64 ``[P]``.

    Most targets lie in a cell of the image in which only one centre can be the nearest, or a few.
    Only those are compared; all of them for what points beyond the image or to where many meet.
    """
    centers = centers.to(target.dtype)
    candidates, count = _candidates(centers, size)
    rows, columns = (-(-side // _CELL) for side in size)
    place = target.div(_CELL).floor()
    y, x = place.unbind(1)
    cell = (y * columns + x).long().clamp_(0, rows * columns - 1)
    is_inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    count = torch.where(is_inside, count[cell], _FEW + 1)
    nearest = candidates[cell, 0]
    few = ((count > 1) & (count <= _FEW)).nonzero().squeeze(1)
    among = candidates[cell[few]]  # [F, few]
    choice = _distances(target[few], centers[among]).argmin(1, keepdim=True)
    nearest[few] = among.gather(1, choice).squeeze(1)
    many = (count > _FEW).nonzero().squeeze(1)
    for part in many.split(max(_DISTANCES_AT_A_TIME // len(centers), 1)):
        nearest[part] = _distances(target[part], centers).argmin(1)
    return nearest


def _distances(target: Tensor, centers: Tensor) -> Tensor:
    """Of targets ``[P, 2]`` to centres ``[K, 2]`` or to some each, ``[P, K, 2]``: ``[P, K]``."""
    squared = (centers[..., 0] - target[:, :1]).square() + (
        centers[..., 1] - target[:, 1:]
    ).square()
    # The root makes some unequal squares equal; the original compares roots.
    return squared.sqrt()


def _candidates(centers: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The centres that can be the nearest to a point of each cell of the image.

    Args:
        centers: ``[K, 2]`` (y, x).
        size: (height, width) of the image.

    Returns:
        Indices, int64 ``[cells, few]``, ascending, the first one again where there are fewer; and
        how many there are, int64 ``[cells]``.
    """
    rows, columns = (
        (torch.arange(-(-side // _CELL), device=centers.device) + 0.5) * _CELL for side in size
    )
    middle = torch.cartesian_prod(rows, columns).to(centers.dtype)
    distance = _distances(middle, centers)
    # From anywhere in the cell a centre is nearer or farther than from its middle by half a
    # diagonal at most; one pixel more is far above what rounding can do.
    is_candidate = distance <= distance.amin(1, keepdim=True) + 2**0.5 * _CELL + 1
    count = is_candidate.sum(1)
    cell, index = is_candidate.nonzero().unbind(1)
    number = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
    first = is_candidate.int().argmax(1, keepdim=True)
    candidates = first.repeat(1, _FEW)
    is_listed = number < _FEW
    candidates[cell[is_listed], number[is_listed]] = index[is_listed]
    return candidates, count


def merge(
    semantic: Tensor,
    instance: Tensor,
    things: Tensor,
    ignore_class: int,
    stuff_area_limit: int,
) -> Tensor:
    """Gives each instance the majority class of its pixels and fills in large stuff.

    Args:
        semantic: int64 ``[H, W]``, class ids.
        instance: int64 ``[H, W]``, instance numbers at thing pixels, else 0.
        things: bool ``[H, W]``, True where `semantic` is a thing class.
        ignore_class: class of void; pixels that nothing claims get it.
        stuff_area_limit: stuff classes with fewer pixels become void.

    Returns:
        int32 ``[H, W]``, class * CLASS_DIVISOR + instance; instances of a class are numbered from 1
        in the order of their first pixel.
    """
    classes = int(semantic.max()) + 1
    void = torch.full_like(semantic, ignore_class * CLASS_DIVISOR)
    areas = torch.bincount(semantic[~things], minlength=classes)
    large = areas >= stuff_area_limit
    panoptic = torch.where(~things & large[semantic], semantic * CLASS_DIVISOR, void)

    member = instance > 0
    numbers = instance[member]
    if len(numbers) == 0:
        return panoptic.int()
    count = int(numbers.max()) + 1
    votes = torch.bincount(numbers * classes + semantic[member], minlength=count * classes)
    majority = votes.view(count, classes).argmax(1)  # [count], the smallest class on ties
    positions = member.flatten().nonzero().squeeze(1)
    first = torch.full((count,), member.numel(), device=semantic.device)
    first.scatter_reduce_(0, numbers, positions, "amin")
    order = first.argsort()
    order = order[first[order] < member.numel()]  # instances that have a pixel
    same_class = majority[order, None] == majority[order]
    rank = same_class.tril().sum(1)  # 1, 2, ... within the class
    values = torch.zeros(count, dtype=torch.long, device=semantic.device)
    values[order] = majority[order] * CLASS_DIVISOR + rank
    panoptic[member] = values[numbers]
    return panoptic.int()
