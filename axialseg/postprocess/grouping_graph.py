"""`PanopticDeepLabPostProcess` as a graph, see ``postprocess/graph.py``.

Shapes: B images, H and W of the image, K classes, M centres.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.layers.resize import resize_bilinear
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.graph import GraphMaps, column, counted, looked_up, repeated
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess, window_maximum

MOST_CENTERS = 400  # of an image in a graph, where the eager form has no limit
NOWHERE = 1 << 40  # behind all pixels


class GroupingGraph(nn.Module):
    """`PanopticDeepLabPostProcess`, with `centers` centres, of which the first ones are valid.

    Args:
        postprocess: its settings.
        stride: pixels of the image from one position of the heads to the next.
    """

    is_thing: Tensor

    def __init__(self, postprocess: PanopticDeepLabPostProcess, stride: int) -> None:
        super().__init__()
        self.limits = postprocess
        self.stride = stride
        self.centers = postprocess.keep_centers or MOST_CENTERS
        self.register_buffer("is_thing", postprocess.is_thing, persistent=False)

    def forward(self, heads: PanopticHeads, size: tuple[int, int]) -> GraphMaps:
        """Raw heads at any resolution; size (H, W)."""
        logits = resize_bilinear(heads.semantic, size)
        center = resize_bilinear(heads.center, size)[:, 0]
        offset = resize_bilinear(heads.offset * self.stride, size)
        semantic = logits.argmax(1)
        things = self.is_thing[semantic]
        place, peak = self._find_centers(center)
        instance = torch.where(things, self._group(place, offset), 0)
        panoptic = self._merge(semantic, instance, things)
        classes = panoptic // CLASS_DIVISOR
        last = logits.shape[1] - 1
        logit = logits.gather(1, classes.clamp(max=last)[:, None])[:, 0]
        probability = (logit - logits.logsumexp(1)).exp()
        score = looked_up(F.pad(peak, (1, 0)), instance)
        is_instance = panoptic % CLASS_DIVISOR > 0
        return GraphMaps(
            panoptic.int(),
            semantic.int(),
            torch.where(classes <= last, probability, 0.0),
            torch.where(is_instance, score, 1.0),
        )

    def _find_centers(self, center: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the centres in a flat map, in order, then `NOWHERE`; and their scores, or 0.

        Args:
            center: heat-map ``[B, H, W]``.

        Returns:
            int64 ``[B, M]`` and float32 ``[B, M]``.
        """
        scores = torch.where(center > self.limits.center_threshold, center, 0.0)
        pooled = window_maximum(scores, self.limits.nms_kernel)
        is_center = ((scores == pooled) & (scores > 0)).flatten(1)
        best, place = torch.where(is_center, scores.flatten(1), -1.0).topk(self.centers, 1)
        kept = best > 0
        if self.limits.keep_centers is not None:
            # Of more than these the original keeps those that are strictly above the last.
            is_few = is_center.sum(1, keepdim=True) <= self.centers
            kept &= is_few | (best > best[:, -1:])
        place = torch.where(kept, place, NOWHERE).sort(1).values
        found = scores.flatten(1).gather(1, torch.where(place < NOWHERE, place, 0))
        return place, torch.where(place < NOWHERE, found, 0.0)

    def _group(self, place: Tensor, offset: Tensor) -> Tensor:
        """Number of the centre nearest to where each pixel points, int64 ``[B, H, W]``, from 1."""
        height, width = offset.shape[-2:]
        rows = torch.arange(height, device=offset.device)[:, None].expand(height, width)
        columns = torch.arange(width, device=offset.device).expand(height, width)
        target_y, target_x = rows + offset[:, 0], columns + offset[:, 1]
        valid = place < NOWHERE
        known = torch.where(valid, place, 0)
        y = rows.flatten()[known].to(offset.dtype)
        x = columns.flatten()[known].to(offset.dtype)
        count = valid.sum(1).max()

        def nearer(number: Tensor, least: Tensor, instance: Tensor) -> tuple[Tensor, ...]:
            at_y, at_x, is_valid = (column(values, number) for values in (y, x, valid))
            distance = ((at_y - target_y).square() + (at_x - target_x).square()).sqrt()
            wins = (distance < least) & is_valid
            number = number + 1
            return number, torch.where(wins, distance, least), torch.where(wins, number, instance)

        nothing = torch.zeros_like(target_y, dtype=torch.long)
        start = (torch.full_like(target_y, torch.inf), nothing)
        return repeated(count, nearer, *start)[1]

    def _merge(self, semantic: Tensor, instance: Tensor, things: Tensor) -> Tensor:
        """See `panoptic_deeplab.merge`; all int64 ``[B, H, W]``, things bool."""
        divisor, classes = CLASS_DIVISOR, len(self.is_thing)
        void = self.limits.ignore_class * divisor
        area = counted(semantic, ~things, classes)
        is_large = looked_up(area >= self.limits.stuff_area_limit, semantic)
        panoptic = torch.where(~things & is_large, semantic * divisor, void)

        member = instance > 0
        count = self.centers + 1
        votes = counted(instance * classes + semantic, member, count * classes)
        majority = votes.unflatten(1, (count, classes)).argmax(2)
        flat = instance.flatten(1)
        position = torch.where(
            member.flatten(1), torch.arange(flat.shape[1], device=flat.device), NOWHERE
        )
        first = torch.full_like(majority, NOWHERE).scatter_reduce(1, flat, position, "amin")
        same_class = majority[:, :, None] == majority[:, None]
        rank = 1 + (same_class & (first[:, None] < first[:, :, None])).sum(2)
        return torch.where(member, looked_up(majority * divisor + rank, instance), panoptic)
