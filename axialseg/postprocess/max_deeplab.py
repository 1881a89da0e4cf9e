"""From MaX-DeepLab's heads to a panoptic map: each pixel to its slot, or masks pasted in order.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.1 (pixel-wise); deeplab2
``model/post_processor/max_deeplab.py``. Mask logits are upsampled in bands of rows, where the slots
of a pixel are neighbours in memory. So a band stays in a core's cache, and the memory is that of a
few maps of the image's size for any number of slots (mask-wise also one byte per pixel and mask).

Shapes: N slots, K classes without "no object", H and W of the image, h and w of the logits, D slots
that are confident.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
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
        detected = (slots.confidence >= self.class_threshold).nonzero().squeeze(1)
        bands = [self._band(band, detected) for band in upsampled_bands(mask_logits, size)]
        slot, best, score, confident = (torch.cat(parts) for parts in zip(*bands, strict=True))
        panoptic, removed = self.merge(slot, confident, slots.class_index)
        unsure = slots.is_object & (slots.confidence < self.class_threshold)
        removed = {"class_threshold": self.merge.by_class(slots.class_index[unsure]), **removed}
        return MaskResult(
            panoptic,
            self.merge.class_ids.to(slot.device)[slots.class_index[best]].int(),
            (slot + 1).int(),
            score,
            slots.confidence[slot],
            removed,
            len(slots.confidence),
        )

    def _band(self, logits: Tensor, detected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a band ``[rows, W, N]``: slot, slot of all, score, and whether it is confident.

        Args:
            logits: of the masks.
            detected: int64 ``[D]``, slots to choose from; if there are none, slot 0 with score 0.
        """
        best_logit, best = logits.max(-1)
        if len(detected) == 0:
            nothing = torch.zeros_like(best)
            return nothing, best, torch.zeros_like(best_logit), nothing.bool()
        among = logits.index_select(-1, detected)
        logit, position = among.max(-1)
        score = 1.0 / (among - logit[..., None]).exp().sum(-1)
        # With equal logits the detected slot is as good as the best one.
        confident = (score > self.pixel_threshold) & (logit == best_logit)
        return detected[position], best, score, confident


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
        masks, bests, scores = [], [], []
        for logits in upsampled_bands(mask_logits, size):
            probability = logits.softmax(-1)
            score, best = probability.max(-1)
            chosen = probability.index_select(-1, order[pasted]) > self.pixel_threshold
            masks.append(chosen.permute(2, 0, 1).contiguous())
            bests.append(best)
            scores.append(score)

        slot = torch.zeros(size, dtype=torch.long, device=mask_logits.device)
        free = torch.ones_like(slot, dtype=torch.bool)
        for position, mask in zip(pasted, torch.cat(masks, dim=1), strict=True):
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
        best = torch.cat(bests)
        return MaskResult(
            panoptic,
            self.merge.class_ids.to(slot.device)[slots.class_index[best]].int(),
            (slot + 1).int(),
            # As the authors have it: without a confident slot there is no score at all.
            torch.cat(scores) * (ordered.confidence >= least).any(),
            torch.where(free, 0.0, ordered.confidence[slot]),
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
        area = torch.bincount(slot[confident], minlength=len(class_index))
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
        return torch.where(confident & stays[slot], value[slot], void).int(), removed

    def by_class(self, class_index: Tensor) -> Tensor:
        """How many segments of each class there are; int64 ``[n]`` -> ``[C]`` by class id."""
        class_ids = self.class_ids.to(class_index.device)[class_index]
        return torch.bincount(class_ids, minlength=int(self.class_ids.max()) + 1)


def slot_classes(class_logits: Tensor) -> Slots:
    """The best class of each slot besides "no object"; class_logits ``[N, K + 1]``."""
    probability = class_logits.softmax(-1)
    confidence, class_index = probability[:, :-1].max(-1)
    return Slots(class_index, confidence, confidence > probability[:, -1])


def upsampled_bands(logits: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """`logits` ``[N, h, w]`` resized with aligned corners, in bands ``[rows, W, N]``."""
    height, width = size
    count, h, w = logits.shape
    x = logits.permute(1, 2, 0).contiguous()
    columns = _interpolation(w, width, logits)
    rows = _interpolation(h, height, logits)
    held = _LOGITS_ON_CPU if logits.device.type == "cpu" else _LOGITS_ON_GPU
    step = max(held // (count * width), 1)
    for start in range(0, height, step):
        band = _interpolated(x, 0, *(part[start : start + step] for part in rows))
        yield _interpolated(band, 1, *columns)


def _interpolation(source: int, target: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower neighbour, int64, and share of the upper one, of each of `target` positions."""
    step = (source - 1) / max(target - 1, 1)
    position = torch.arange(target, dtype=like.dtype, device=like.device) * step
    lower = position.long().clamp(max=max(source - 2, 0))
    return lower, position - lower


def _interpolated(x: Tensor, dim: int, lower: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation along a dimension."""
    upper = (lower + 1).clamp(max=x.shape[dim] - 1)
    below, above = x.index_select(dim, lower), x.index_select(dim, upper)
    shape = [1] * x.ndim
    shape[dim] = -1
    return torch.lerp(below, above, share.view(shape))
