"""From MaX-DeepLab's heads to a panoptic map: each pixel to its slot, or masks pasted in order.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.1 (pixel-wise); deeplab2
``model/post_processor/max_deeplab.py``. Mask logits are upsampled in tiles, where the slots of a
pixel are neighbours in memory. So a tile stays in a core's cache, and the memory is that of a few
maps of the image's size for any number of slots (mask-wise also one byte per pixel and mask).

Shapes: N slots, K classes without "no object", H and W of the image, h and w of the logits, D slots
that are confident.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property
from itertools import product
from typing import NamedTuple, Self

import torch
from torch import Tensor

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.restore import restore_labels

# Upsampled mask logits held at a time.
_LOGITS_ON_CPU = 1 << 18  # about what stays in a core's cache
_LOGITS_ON_GPU = 1 << 25  # enough to keep it busy
_BLOCK = 2  # points on each side, for which the slots that may be the best are found at once

Tile = tuple["Part", "Part"]  # rows and columns


class MaskResult(NamedTuple):
    """What a post-processing returns for one image.

    Attributes:
        panoptic: int32 ``[H, W]``, class * CLASS_DIVISOR + instance.
        semantic: int32 ``[H, W]``, class ids; not filtered by confidence or area.
        instance: int32 ``[H, W]``, 1 + position of the pixel's slot, confident or not.
        instance_score: float32 ``[H, W]``, probability of the pixel's slot.
        semantic_score: float32 ``[H, W]``, probability of the slot's class.
        removed: name of a limit -> how many segments of each class it has removed, int64
            ``[C]`` by class id.
        capacity: segments that can be predicted for an image: the slots.
    """

    panoptic: Tensor
    semantic: Tensor
    instance: Tensor
    instance_score: Tensor
    semantic_score: Tensor
    removed: dict[str, Tensor]
    capacity: int | None

    def score_maps(self, panoptic: Tensor, resized: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores of the pixels' classes and of their instances; both float32 ``[H', W']``.

        Args:
            panoptic: the panoptic map at the size wanted, ``[H', W']``.
            resized: (height, width) of the image in the maps here, without padding.
        """
        size = (panoptic.shape[0], panoptic.shape[1])
        return (
            restore_labels(self.semantic_score, resized, size),
            restore_labels(self.instance_score, resized, size),
        )


class Slots(NamedTuple):
    """The slots' classes.

    Attributes:
        class_index: int64 ``[N]``, position among things, then stuff.
        confidence: float ``[N]``, probability of that class.
        is_object: bool ``[N]``, whether "no object" is less probable.
    """

    class_index: Tensor
    confidence: Tensor
    is_object: Tensor


class SlotPostProcess(ABC):
    """What both kinds have in common.

    Args:
        merge: from a map of slots to panoptic values.
    """

    def __init__(self, merge: "SlotMerge") -> None:
        self.merge = merge

    def __call__(self, outputs: MaskHeads, size: tuple[int, int]) -> list[MaskResult]:
        """Results of each image at the size (H, W); `outputs` are raw heads."""
        return [
            self.single(masks, classes, size)
            for masks, classes in zip(
                outputs.mask_logits.float(), outputs.class_logits.float(), strict=True
            )
        ]

    @abstractmethod
    def single(
        self, mask_logits: Tensor, class_logits: Tensor, size: tuple[int, int]
    ) -> MaskResult:
        """One image; mask_logits ``[N, h, w]``, class_logits ``[N, K + 1]``, size (H, W)."""

    @property
    def ignore_class(self) -> int:
        """Class id of void."""
        return self.merge.ignore_class

    @property
    def area_limits(self) -> dict[str, int]:
        """Name of a limit -> pixels, fewer than which a segment of its kind may not have."""
        return self.merge.area_limits

    def without_area_limits(self) -> Self:
        """The same for a part of an image, whose segments may go on outside of it."""
        unlimited = copy(self)
        unlimited.merge = copy(self.merge)
        unlimited.merge.thing_area_limit = unlimited.merge.stuff_area_limit = 0
        return unlimited


class PixelWisePostProcess(SlotPostProcess):
    """Gives each pixel to its best slot; slots and pixels that are not confident are void.

    Args:
        categories: the classes; tells things from stuff, and void.
        class_threshold: slots whose class has a smaller probability are left out.
        pixel_threshold: pixels whose slot has no larger probability are void, and so are those
            whose best slot was left out.
        thing_area_limit: things with fewer pixels in the image become void (100 for COCO at 641,
            256 at 1025).
        stuff_area_limit: stuff classes with fewer pixels in the image become void (1600 for COCO at
            641, 4096 at 1025).
    """

    def __init__(
        self,
        categories: Categories,
        class_threshold: float = 0.7,
        pixel_threshold: float = 0.4,
        thing_area_limit: int = 100,
        stuff_area_limit: int = 1600,
    ) -> None:
        self.class_threshold = class_threshold
        self.pixel_threshold = pixel_threshold
        super().__init__(SlotMerge(categories, thing_area_limit, stuff_area_limit))

    def single(
        self, mask_logits: Tensor, class_logits: Tensor, size: tuple[int, int]
    ) -> MaskResult:
        """One image; mask_logits ``[N, h, w]``, class_logits ``[N, K + 1]``, size (H, W)."""
        slots = slot_classes(class_logits)
        is_detected = slots.confidence >= self.class_threshold
        detected, others = (kind.nonzero().squeeze(1) for kind in (is_detected, ~is_detected))
        upsampling = Upsampling(mask_logits, size)
        slot = torch.empty(size, dtype=torch.long, device=mask_logits.device)
        best, confident = torch.empty_like(slot), torch.empty_like(slot, dtype=torch.bool)
        score = mask_logits.new_empty(size)
        for tile in upsampling.tiles(len(detected) + 1):
            results = self._tile(upsampling, tile, detected, others)
            place = pixels_of(tile)
            for whole, part in zip((slot, best, score, confident), results, strict=True):
                whole[place] = part
        panoptic, removed = self.merge(slot, confident, slots.class_index)
        unsure = slots.is_object & (slots.confidence < self.class_threshold)
        removed = {"class_threshold": self.merge.by_class(slots.class_index[unsure]), **removed}
        return MaskResult(
            panoptic,
            self.merge.class_of(slots.class_index).take(best),
            (slot + 1).int(),
            score,
            slots.confidence.take(slot),
            removed,
            len(slots.confidence),
        )

    def _tile(
        self, upsampling: "Upsampling", tile: Tile, detected: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a tile: slot, slot of all, score, and whether it is confident.

        Args:
            upsampling: of the masks.
            tile: of the image.
            detected: int64 ``[D]``, slots to choose from; if there are none, slot 0 with score 0.
            others: int64 ``[N - D]``, which matter only where they are better than those.
        """
        others = others[upsampling.may_be_best(tile)[others]]
        if len(detected) == 0:
            best_logit, position = upsampling.tile(tile, others).max(-1)
            nothing = torch.zeros_like(position)
            return nothing, others.take(position), torch.zeros_like(best_logit), nothing.bool()
        among = upsampling.tile(tile, detected)
        logit, position = among.max(-1)
        slot = detected.take(position)
        score = 1.0 / among.sub_(logit[..., None]).exp_().sum(-1)
        confident = score > self.pixel_threshold
        if len(others) == 0:
            return slot, slot, score, confident
        other_logit, position = upsampling.tile(tile, others).max(-1)
        other = others.take(position)
        is_better = (other_logit > logit) | ((other_logit == logit) & (other < slot))
        best = torch.where(is_better, other, slot)
        # With equal logits the detected slot is as good as the best one.
        return slot, best, score, confident & (logit >= other_logit)


class MaskWisePostProcess(SlotPostProcess):
    """Pastes the masks, the most confident first, where nothing has been pasted yet.

    Source: also Cheng et al. 2021, "Per-Pixel Classification is Not All You Need"; Li et al. 2022,
    "Panoptic SegFormer".

    Args:
        categories: the classes; tells things from stuff, and void.
        thing_threshold: slots of things with a smaller class probability are left out.
        stuff_threshold: slots of stuff with a smaller class probability are left out.
        pixel_threshold: a mask is where its slot has a larger probability.
        overlap_threshold: a mask is left out unless more than this share of it is still free.
        class_power: of the class probability in the order of pasting.
        mask_power: of the mask's mean probability in the order of pasting.
        thing_area_limit: things with fewer pixels in the image become void.
        stuff_area_limit: stuff classes with fewer pixels in the image become void.
    """

    def __init__(
        self,
        categories: Categories,
        thing_threshold: float = 0.7,
        stuff_threshold: float = 0.5,
        pixel_threshold: float = 0.4,
        overlap_threshold: float = 0.5,
        class_power: float = 1.0,
        mask_power: float = 1.0,
        thing_area_limit: int = 100,
        stuff_area_limit: int = 1600,
    ) -> None:
        self.thing_threshold = thing_threshold
        self.stuff_threshold = stuff_threshold
        self.pixel_threshold = pixel_threshold
        self.overlap_threshold = overlap_threshold
        self.class_power = class_power
        self.mask_power = mask_power
        super().__init__(SlotMerge(categories, thing_area_limit, stuff_area_limit))

    def single(
        self, mask_logits: Tensor, class_logits: Tensor, size: tuple[int, int]
    ) -> MaskResult:
        """One image; mask_logits ``[N, h, w]``, class_logits ``[N, K + 1]``, size (H, W).

        `instance` counts the slots in the order of pasting.
        """
        slots = slot_classes(class_logits)
        order = self._order(mask_logits, slots.confidence)
        ordered = Slots(*(values[order] for values in slots))
        is_thing = ordered.class_index < self.merge.things
        threshold = torch.where(is_thing, self.thing_threshold, self.stuff_threshold)
        pasted = (ordered.confidence >= threshold).nonzero().squeeze(1)
        least = min(self.thing_threshold, self.stuff_threshold)
        best = torch.empty(size, dtype=torch.long, device=mask_logits.device)
        masks = torch.empty((len(pasted), *size), dtype=torch.bool, device=mask_logits.device)
        score = mask_logits.new_empty(size)
        upsampling = Upsampling(mask_logits, size)
        for tile in upsampling.tiles(len(mask_logits)):
            probability = upsampling.tile(tile).softmax(-1)
            place = pixels_of(tile)
            score[place], best[place] = probability.max(-1)
            chosen = probability.index_select(-1, order[pasted]) > self.pixel_threshold
            masks[:, *place] = chosen.permute(2, 0, 1)

        slot = torch.zeros(size, dtype=torch.long, device=mask_logits.device)
        free = torch.ones_like(slot, dtype=torch.bool)
        for position, mask in zip(pasted, masks, strict=True):
            visible = mask & free
            # No branch on the device's numbers, so that a GPU need not be waited for.
            visible &= visible.sum() > mask.sum() * self.overlap_threshold
            slot = torch.where(visible, position, slot)
            free &= ~visible
        panoptic, removed = self.merge(slot, ~free, ordered.class_index)
        unsure = ordered.is_object & (ordered.confidence < threshold)
        for kind, of_kind in (("thing", is_thing), ("stuff", ~is_thing)):
            classes = ordered.class_index[unsure & of_kind]
            removed[f"{kind}_threshold"] = self.merge.by_class(classes)
        return MaskResult(
            panoptic,
            self.merge.class_of(slots.class_index).take(best),
            (slot + 1).int(),
            # As the authors have it: without a confident slot there is no score at all.
            score * (ordered.confidence >= least).any(),
            torch.where(free, 0.0, ordered.confidence.take(slot)),
            removed,
            len(slots.confidence),
        )

    def _order(self, mask_logits: Tensor, confidence: Tensor) -> Tensor:
        """Slots, the first to be pasted first; int64 ``[N]``."""
        probability = mask_logits.softmax(0).flatten(1)
        mask = probability > self.pixel_threshold
        mean = (probability * mask).sum(1) / mask.sum(1).clamp(min=1)
        score = confidence**self.class_power * mean**self.mask_power
        return score.argsort(descending=True, stable=True)


class SlotMerge:
    """From a map of slots to panoptic values, without small segments.

    Args:
        categories: the classes.
        thing_area_limit: things with fewer pixels become void.
        stuff_area_limit: stuff classes with fewer pixels become void.

    Attributes:
        things: number of thing classes, which come first among the class indices.
        class_ids: int64 ``[K]``, class id of each class index.
    """

    def __init__(
        self, categories: Categories, thing_area_limit: int, stuff_area_limit: int
    ) -> None:
        self.things = len(categories.thing_ids)
        self.class_ids = torch.tensor([*categories.thing_ids, *categories.stuff_ids])
        self.ignore_class = categories.ignore_class
        self.thing_area_limit = thing_area_limit
        self.stuff_area_limit = stuff_area_limit

    @property
    def area_limits(self) -> dict[str, int]:
        """Name of a limit -> pixels."""
        things, stuff = self.thing_area_limit, self.stuff_area_limit
        return {"thing_area_limit": things, "stuff_area_limit": stuff}

    def __call__(
        self, slot: Tensor, confident: Tensor, class_index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Merges one image.

        Args:
            slot: int64 ``[H, W]``.
            confident: bool ``[H, W]``; other pixels are void.
            class_index: int64 ``[N]``, of the slots.

        Returns:
            int32 ``[H, W]``, class * CLASS_DIVISOR, for things + 1 + slot; and what the area limits
            have removed, as in `MaskResult`.
        """
        # All sums go over slots, of which there are few, not over pixels.
        count = len(class_index)
        area = torch.bincount(torch.where(confident, slot, count).flatten(), minlength=count)[
            :count
        ]
        by_class = torch.bincount(class_index, weights=area.double(), minlength=len(self.class_ids))
        is_thing = class_index < self.things
        stays = torch.where(
            is_thing,
            area >= self.thing_area_limit,
            by_class[class_index] >= self.stuff_area_limit,
        )
        number = torch.arange(1, len(class_index) + 1, device=slot.device) * is_thing
        value = self.class_ids.to(slot.device)[class_index] * CLASS_DIVISOR + number
        void = self.ignore_class * CLASS_DIVISOR
        small_stuff = (by_class > 0) & (by_class < self.stuff_area_limit)
        small_stuff[: self.things] = False
        removed = {
            "thing_area_limit": self.by_class(class_index[is_thing & ~stays & (area > 0)]),
            "stuff_area_limit": self.by_class(small_stuff.nonzero().squeeze(1)),
        }
        value = torch.where(stays, value, void).int()
        return torch.where(confident, value.take(slot), void), removed

    def class_of(self, class_index: Tensor) -> Tensor:
        """Class ids, int32 ``[N]``, of class indices."""
        return self.class_ids.to(class_index.device)[class_index].int()

    def by_class(self, class_index: Tensor) -> Tensor:
        """How many segments of each class there are; int64 ``[n]`` -> ``[C]`` by class id."""
        class_ids = self.class_ids.to(class_index.device)[class_index]
        return torch.bincount(class_ids, minlength=int(self.class_ids.max()) + 1)


def slot_classes(class_logits: Tensor) -> Slots:
    """The best class of each slot besides "no object"; class_logits ``[N, K + 1]``."""
    probability = class_logits.softmax(-1)
    confidence, class_index = probability[:, :-1].max(-1)
    return Slots(class_index, confidence, confidence > probability[:, -1])


class Part(NamedTuple):
    """Some rows or columns of an image, and the points of the logits between which they lie.

    Attributes:
        pixels: of the image.
        points: of the logits.
        lower: int64 ``[n]``, which of those points is before each pixel.
        upper: likewise, the one after it.
        share: ``[n]``, of the one after it.
    """

    pixels: slice
    points: slice
    lower: Tensor
    upper: Tensor
    share: Tensor

    @staticmethod
    def all_of(source: int, target: int, length: int, like: Tensor) -> "list[Part]":
        """`target` pixels with the first and the last one on those of `source` points."""
        step = (source - 1) / max(target - 1, 1)
        position = torch.arange(target, dtype=like.dtype, device=like.device) * step
        lower = position.long().clamp(max=max(source - 2, 0))
        parts = []
        for start in range(0, target, length):
            pixels = slice(start, min(start + length, target))
            first, last = int(lower[start]), int(lower[pixels.stop - 1])
            points = slice(first, min(last + 2, source))
            local = lower[pixels] - first
            upper = (local + 1).clamp(max=points.stop - first - 1)
            parts.append(Part(pixels, points, local, upper, (position - lower)[pixels]))
        return parts

    def interpolated(self, x: Tensor, dim: int) -> Tensor:
        """The pixels, from the points `x` along a dimension."""
        below, above = x.index_select(dim, self.lower), x.index_select(dim, self.upper)
        shape = [1] * x.ndim
        shape[dim] = -1
        return torch.lerp(below, above, self.share.view(shape))


def pixels_of(tile: Tile) -> tuple[slice, slice]:
    """Rows and columns of the image."""
    rows, columns = tile
    return rows.pixels, columns.pixels


class Upsampling:
    """Mask logits at the size of the image, with aligned corners, a tile at a time.

    Args:
        logits: ``[N, h, w]``.
        size: (height, width) of the image.
    """

    def __init__(self, logits: Tensor, size: tuple[int, int]) -> None:
        count, h, w = logits.shape
        self.size = size
        self.logits = logits.flatten(1).t().contiguous().view(h, w, count)

    def tiles(self, slots: int) -> Iterator[Tile]:
        """Squares that cover the image, so small that the logits of so many slots fit a cache."""
        held = _LOGITS_ON_CPU if self.logits.device.type == "cpu" else _LOGITS_ON_GPU
        length = max(math.isqrt(held // slots), 1)
        rows, columns = (
            Part.all_of(source, target, length, self.logits)
            for source, target in zip(self.logits.shape, self.size, strict=False)
        )
        return product(rows, columns)

    def tile(self, tile: Tile, slots: Tensor | None = None) -> Tensor:
        """Logits ``[rows, columns, N]``, or those of some slots, int64 ``[n]``, ``[..., n]``."""
        rows, columns = tile
        x = self.logits[rows.points, columns.points]
        if slots is not None:
            x = x.index_select(-1, slots)
        return columns.interpolated(rows.interpolated(x, 0), 1)

    def may_be_best(self, tile: Tile) -> Tensor:
        """Whether a slot can have the largest logit of all somewhere in a tile; bool ``[N]``."""
        rows, columns = (
            slice(part.points.start // _BLOCK, max(part.points.stop - 2, 0) // _BLOCK + 1)
            for part in tile
        )
        return self._candidates[rows, columns].flatten(0, 1).any(0)

    @cached_property
    def _candidates(self) -> Tensor:
        """The same for the blocks that the points are divided into; bool ``[rows, columns, N]``.

        Between points a logit is no larger than the largest of its slot around it; and the largest
        of all slots is no smaller than the smallest around it of any slot.
        """
        largest, smallest = _in_blocks(self.logits, torch.amax), _in_blocks(self.logits, torch.amin)
        rounding = torch.maximum(largest.amax(), -smallest.amin()) * 1e-5
        # Not: at least the bound. What is no number may be anything.
        return ~(largest < smallest.amax(-1, keepdim=True) - rounding)


def _in_blocks(x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """A function of the points ``[h, w, N]`` of each block; its last ones begin the next block."""
    for _ in range(2):
        missing = -(len(x) - 1) % _BLOCK if len(x) > 1 else _BLOCK
        x = torch.cat([x, x[-1:].expand(missing, -1, -1)]) if missing else x
        x = function(x.unfold(0, _BLOCK + 1, _BLOCK), -1).transpose(0, 1)
    return x
