"""`PixelWisePostProcess` and `MaskWisePostProcess` as graphs, see ``postprocess/graph.py``.

Shapes: B images, H and W of the image, h and w of the logits, N slots.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import KMaxHeads, MaskHeads
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.graph import GraphMaps, column, counted, looked_up, repeated
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess, SlotMerge

LOWEST = -1e30  # below all logits, and finite


class _SlotGraph(nn.Module):
    """What both ways from slots to segments have in common.

    Args:
        merge: of the post-processing.
        stride: pixels of the image from one position of the logits to the next.
    """

    class_ids: Tensor

    def __init__(self, merge: SlotMerge, stride: int) -> None:
        super().__init__()
        self.merge = merge
        self.stride = stride
        self.register_buffer("class_ids", merge.class_ids, persistent=False)

    def _upsampling(self, masks: Tensor, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """Position of a slot, int64 ``[]`` -> its mask logits ``[B, H, W]``."""
        steps = []
        for dim, (source, target) in enumerate(zip(masks.shape[-2:], size, strict=True), start=1):
            place = torch.arange(target, device=masks.device)
            lower = (place // self.stride).clamp(max=source - 2)
            share = (place - lower * self.stride).to(masks.dtype) / self.stride
            steps.append((dim, lower, share[:, None] if dim == 1 else share))

        def upsampled(number: Tensor) -> Tensor:
            x = masks.index_select(1, number.view(1))[:, 0]
            for dim, lower, share in steps:
                below, above = x.index_select(dim, lower), x.index_select(dim, lower + 1)
                x = below + (above - below) * share
            return x

        return upsampled

    def _merged(self, slot: Tensor, confident: Tensor, class_index: Tensor) -> Tensor:
        """See `SlotMerge`; slot int64 ``[B, H, W]``, confident bool, class_index ``[B, N]``."""
        merge = self.merge
        area = counted(slot, confident, class_index.shape[1])
        by_class = torch.zeros_like(class_index[:, :1]).expand(-1, len(self.class_ids))
        by_class = by_class.scatter_add(1, class_index, area)
        is_thing = class_index < merge.things
        is_large = by_class.gather(1, class_index) >= merge.stuff_area_limit
        # Not `torch.where`, which onnxruntime does not have for bool.
        stays = (is_thing & (area >= merge.thing_area_limit)) | (~is_thing & is_large)
        number = torch.arange(1, class_index.shape[1] + 1, device=slot.device) * is_thing
        value = self.class_ids[class_index] * CLASS_DIVISOR + number
        shown = confident & looked_up(stays, slot)
        return torch.where(shown, looked_up(value, slot), merge.ignore_class * CLASS_DIVISOR)


class PixelWiseGraph(_SlotGraph):
    """`PixelWisePostProcess`."""

    def __init__(self, postprocess: PixelWisePostProcess, stride: int) -> None:
        super().__init__(postprocess.merge, stride)
        self.class_threshold = postprocess.class_threshold
        self.pixel_threshold = postprocess.pixel_threshold

    def forward(self, heads: MaskHeads | KMaxHeads, size: tuple[int, int]) -> GraphMaps:
        """Raw heads; size (H, W)."""
        confidence, class_index = _slot_classes(heads.class_logits)
        slots = torch.arange(confidence.shape[1], device=confidence.device)
        detected = confidence >= self.class_threshold
        # Detected slots first, in their order.
        order = torch.where(detected, slots, slots + len(slots)).argsort(1)
        masks = heads.mask_logits.gather(1, order[:, :, None, None].expand_as(heads.mask_logits))
        confidence, class_index = confidence.gather(1, order), class_index.gather(1, order)
        detected = detected.gather(1, order)
        level_of = self._upsampling(masks, size)

        def higher(number: Tensor, top: Tensor, slot: Tensor, total: Tensor) -> tuple[Tensor, ...]:
            level, is_valid = level_of(number), column(detected, number)
            new, wins = torch.maximum(top, level), (level > top) & is_valid
            sums = total * (top - new).exp() + (level - new).exp()
            total = torch.where(is_valid, sums, total)
            slot = torch.where(wins, number, slot)
            return number + 1, torch.where(is_valid, new, top), slot, total

        def best_of(number: Tensor, top: Tensor, slot: Tensor) -> tuple[Tensor, ...]:
            level = level_of(number)
            wins = level > top
            return number + 1, torch.where(wins, level, top), torch.where(wins, number, slot)

        zeros = masks.new_zeros(masks.shape[0], *size)
        lowest, first = torch.full_like(zeros, LOWEST), torch.zeros_like(zeros, dtype=torch.long)
        top_of_all, best = repeated(slots[-1] + 1, best_of, lowest, first)
        count = detected.sum(1).max()
        top, slot, total = repeated(count, higher, lowest, first, zeros)
        score = torch.where(total > 0, 1.0 / total.clamp_min(1.0), 0.0)
        is_best = (slot == best) | (top == top_of_all)
        confident = (score > self.pixel_threshold) & is_best & (total > 0)
        # The eager form counts slots as the network does.
        panoptic = self._renumbered(slot, confident, class_index, order)
        semantic = self.class_ids[looked_up(class_index, best)]
        return GraphMaps(panoptic.int(), semantic.int(), looked_up(confidence, slot), score)

    def _renumbered(
        self, slot: Tensor, confident: Tensor, class_index: Tensor, order: Tensor
    ) -> Tensor:
        """Merges with the slots in the network's own order."""
        back = order.argsort(1)
        return self._merged(looked_up(order, slot), confident, class_index.gather(1, back))


class MaskWiseGraph(_SlotGraph):
    """`MaskWisePostProcess`."""

    def __init__(self, postprocess: MaskWisePostProcess, stride: int) -> None:
        super().__init__(postprocess.merge, stride)
        self.limits = postprocess

    def forward(self, heads: MaskHeads | KMaxHeads, size: tuple[int, int]) -> GraphMaps:
        """Raw heads; size (H, W)."""
        limits = self.limits
        confidence, class_index = _slot_classes(heads.class_logits)
        probability = heads.mask_logits.softmax(1).flatten(2)
        mask = probability > limits.pixel_threshold
        mean = (probability * mask).sum(2) / mask.sum(2).clamp(min=1)
        rating = confidence**limits.class_power * mean**limits.mask_power
        order = rating.sort(1, descending=True).indices
        masks = heads.mask_logits.gather(1, order[:, :, None, None].expand_as(heads.mask_logits))
        confidence, class_index = confidence.gather(1, order), class_index.gather(1, order)
        is_thing = class_index < self.merge.things
        pasted = confidence >= torch.where(
            is_thing, limits.thing_threshold, limits.stuff_threshold
        ).to(confidence.dtype)
        slots = torch.arange(confidence.shape[1], device=confidence.device)
        level_of = self._upsampling(masks, size)

        def best_of(number: Tensor, top: Tensor, slot: Tensor, total: Tensor) -> tuple[Tensor, ...]:
            level = level_of(number)
            new = torch.maximum(top, level)
            slot = torch.where(level > top, number, slot)
            return number + 1, new, slot, total * (top - new).exp() + (level - new).exp()

        zeros = masks.new_zeros(masks.shape[0], *size)
        lowest, first = torch.full_like(zeros, LOWEST), torch.zeros_like(zeros, dtype=torch.long)
        top, best, total = repeated(slots[-1] + 1, best_of, lowest, first, zeros)
        normalizer = top + total.log()

        def paste(number: Tensor, slot: Tensor, free: Tensor) -> tuple[Tensor, ...]:
            sure = (level_of(number) - normalizer).exp() > limits.pixel_threshold
            visible = sure & free & column(pasted, number)
            seen, whole = visible.sum((1, 2), keepdim=True), sure.sum((1, 2), keepdim=True)
            visible = visible & (seen > whole * limits.overlap_threshold)
            return number + 1, torch.where(visible, number, slot), free & ~visible

        count = torch.where(pasted, slots + 1, 0).max()
        slot, free = repeated(count, paste, first, torch.ones_like(zeros, dtype=torch.bool))
        least = min(limits.thing_threshold, limits.stuff_threshold)
        is_any = (confidence >= least).any(1)[:, None, None]
        return GraphMaps(
            self._merged(slot, ~free, class_index).int(),
            self.class_ids[looked_up(class_index, best)].int(),
            torch.where(free, 0.0, looked_up(confidence, slot)),
            torch.where(is_any, 1.0 / total, 0.0),
        )


def _slot_classes(class_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and class index ``[B, N]`` of each slot besides "no object"."""
    confidence, class_index = class_logits.softmax(-1)[..., :-1].max(-1)
    return confidence, class_index
