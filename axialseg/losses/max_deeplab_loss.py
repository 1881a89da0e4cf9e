"""The loss of MaX-DeepLab: PQ-style mask and class terms, and three auxiliary terms.

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.2 and 3.4, eq. 5 to 13; deeplab2
``model/loss/max_deeplab_loss.py``; factors from deeplab2's COCO configurations.

Shapes: B batch, M masks of the ground truth, N slots, P = h * w pixels of the prediction, D
channels of the pixel embedding, K classes without "no object".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import KMaxHeads, MaskHeads, SlotHeads
from axialseg.layers.full_precision import widened
from axialseg.losses.class_weights import weight_table
from axialseg.losses.losses import Losses
from axialseg.losses.mask_targets import MaskRows, mask_rows, subsample
from axialseg.losses.matching import match_masks
from axialseg.losses.top_k import average_top_k

_SMALLEST_WEIGHT = 1e-5  # a weight of 0 would leave the mask or slot out of the mean
_NO_SLOT_LOGIT = -99999.0  # of a mask that is left over when there are more masks than slots


class Similarity(NamedTuple):
    """How alike each mask and each slot are.

    Attributes:
        intersection: ``[B, M, N]``, pixels that they share, softly.
        mask_area: ``[B, M]``.
        slot_area: ``[B, N]``, on pixels of a mask (crowds may be neither void nor of a mask).
        void_share: ``[B, N]``, part of the slot's pixels that is void.
        dice: ``[B, M, N]``.
        class_probability: ``[B, M, N]``, of the mask's class.
    """

    intersection: Tensor
    mask_area: Tensor
    slot_area: Tensor
    void_share: Tensor
    dice: Tensor
    class_probability: Tensor


class Matched(NamedTuple):
    """The masks of the ground truth, and the slot that each mask is matched with.

    Attributes:
        rows: the masks.
        similarity: of them and the slots.
        slots: int64 ``[B, M]``, -1 at none.
        cost: ``[B, M, N]``, whose sum the matching minimises.
    """

    rows: MaskRows
    similarity: Similarity
    slots: Tensor
    cost: Tensor


class MaxDeepLabLoss(nn.Module):
    """Five terms, computed at the resolution of the masks, in float32.

    Args:
        ignore_class: class id of void.
        thing_ids: class ids of the things, in the order of the class logits.
        stuff_ids: class ids of the stuff, which follow them.
        pq_weight: factor of the PQ-style loss, both terms.
        mask_id_weight: factor of the cross-entropy over slots at each pixel.
        instance_discrimination_weight: factor of the contrastive loss of the pixel embedding.
        semantic_weight: factor of the auxiliary semantic cross-entropy.
        matched_share: weight of slots with a mask in the PQ-style loss; the others have the rest.
        temperature: of the instance discrimination.
        semantic_top_k: share of the pixels, the hardest, that the semantic term averages over.
        class_weights: factor of the class term of slots with a mask, and of the semantic
            cross-entropy at the pixels of each class, in ascending order of class ids; None is 1
            for all.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        ignore_class: int,
        thing_ids: Sequence[int],
        stuff_ids: Sequence[int],
        pq_weight: float,
        mask_id_weight: float,
        instance_discrimination_weight: float,
        semantic_weight: float,
        matched_share: float,
        temperature: float,
        semantic_top_k: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.ignore_class = ignore_class
        self.thing_ids = tuple(thing_ids)
        self.stuff_ids = tuple(stuff_ids)
        self.weights = {
            "pq_mask": pq_weight,
            "pq_class": pq_weight,
            "mask_id": mask_id_weight,
            "instance_discrimination": instance_discrimination_weight,
            "semantic": semantic_weight,
        }
        self.matched_share = matched_share
        self.temperature = temperature
        self.semantic_top_k = semantic_top_k
        table = weight_table(class_weights, (*thing_ids, *stuff_ids), ignore_class)
        self.register_buffer("class_weights", table, persistent=False)

    def forward(
        self,
        outputs: MaskHeads,
        targets: Mapping[str, Tensor],
        matching: Tensor | None = None,
    ) -> Losses:
        """The five terms, and their weighted sum.

        Args:
            outputs: raw heads.
            targets: ``semantic`` int ``[B, H, W]``, class ids; ``semantic_pixel_weights`` float
                ``[B, H, W]``, how much a pixel counts in the semantic term; ``thing_id_mask`` int
                ``[B, H, W]``, number of the thing, -1 at none; ``thing_id_class`` int ``[B, T]``,
                class id of each thing, -1 past the last.
            matching: int64 ``[B, M]``, slot of each mask; None finds the best one.

        Returns:
            ``pq_mask``, ``pq_class``, ``mask_id``, ``instance_discrimination`` and ``semantic``.
            The sum is NaN for an image whose heads are not all finite.
        """
        # The matcher and the sums over all pixels would suffer from half precision.
        with torch.autocast(outputs.mask_logits.device.type, enabled=False):
            matched = self.matched(outputs, targets, matching)
            terms = self.main_terms(outputs, targets, matched)
            return self.summed(terms, outputs.mask_logits.shape[1])

    def matched(
        self,
        outputs: SlotHeads | MaskHeads | KMaxHeads,
        targets: Mapping[str, Tensor],
        matching: Tensor | None,
    ) -> Matched:
        """Compares slots and masks at the resolution of the prediction; see `forward`."""
        size = (outputs.mask_logits.shape[-2], outputs.mask_logits.shape[-1])
        rows = mask_rows(targets, size, self.thing_ids, self.stuff_ids, self.ignore_class)
        similarity = similarity_of(outputs, rows)
        cost = -(similarity.dice * similarity.class_probability).detach()
        slots = match_masks(cost, rows.valid) if matching is None else matching
        return Matched(rows, similarity, slots, cost)

    def main_terms(
        self, outputs: MaskHeads | KMaxHeads, targets: Mapping[str, Tensor], matched: Matched
    ) -> dict[str, Tensor]:
        """The five terms, each ``[B]``; ``pq_mask`` is the sum over the masks."""
        terms = self.mask_terms(outputs, matched)
        # Without a matching there is no loss; NaN makes the trainer report and skip the step.
        terms["pq_mask"] = terms["pq_mask"] + 0.0 * matched.cost.sum((1, 2))
        return {**terms, "semantic": self.semantic(outputs.semantic, targets)}

    def mask_terms(
        self, outputs: SlotHeads | MaskHeads | KMaxHeads, matched: Matched
    ) -> dict[str, Tensor]:
        """All terms but ``semantic``, each ``[B]``; ``pq_mask`` is the sum over the masks."""
        rows, similarity, slots, _ = matched
        embedding = widened(outputs.pixel_embedding).flatten(2)
        return {
            "pq_mask": self._pq_mask(similarity, rows, slots),
            "pq_class": self._pq_class(similarity, widened(outputs.class_logits), rows, slots),
            "mask_id": _mask_id(widened(outputs.mask_logits).flatten(2), rows, slots),
            "instance_discrimination": self.discrimination(embedding, rows),
        }

    def summed(self, terms: dict[str, Tensor], slots: int) -> Losses:
        """The terms and their weighted sum; those of auxiliary heads begin with ``aux_``."""
        weights = {name: self.weights[name.removeprefix("aux_")] for name in terms}
        # The paper's mean over the slots; one factor instead of two keeps the sum's last bits.
        summed = [name for name in terms if name.removeprefix("aux_") == "pq_mask"]
        weights |= {name: weights[name] * self.matched_share / slots for name in summed}
        share = self.matched_share / slots
        total = Losses.weighted(terms, weights).total
        return Losses(total, {**terms, **{name: share * terms[name] for name in summed}})

    def _pq_mask(self, similarity: Similarity, rows: MaskRows, slots: Tensor) -> Tensor:
        """Smooth Dice loss weighted by the probability of the class, summed over the masks."""
        matched, index = slots >= 0, slots.clamp(min=0)
        intersection = _of_slot(similarity.intersection, index) * matched
        area = similarity.slot_area.gather(1, index) * matched + similarity.mask_area
        dice_loss = 1.0 - (2.0 * intersection + 1.0) / (area + 1.0)
        probability = _of_slot(similarity.class_probability, index) * matched
        weight = probability.detach().clamp(min=_SMALLEST_WEIGHT) * rows.valid
        return (weight * dice_loss).sum(1)

    def _pq_class(
        self, similarity: Similarity, class_logits: Tensor, rows: MaskRows, slots: Tensor
    ) -> Tensor:
        """Cross-entropy of the slots' classes, weighted by how well their masks fit."""
        batch, count, channels = class_logits.shape
        # A left-over mask adds its class to slot 0, as in the original.
        target = slots.clamp(min=0) * channels + rows.class_index
        positive = torch.zeros(
            batch, count * channels, dtype=class_logits.dtype, device=slots.device
        )
        positive.scatter_add_(1, target, rows.valid.to(positive.dtype))
        positive = positive.unflatten(1, (count, channels))
        # A slot with one class twice counts as unmatched, and so does its whole cross-entropy.
        has_mask = positive.amax(-1) == 1.0
        matched, index = slots >= 0, slots.clamp(min=0)
        fit = torch.zeros(batch, count, dtype=class_logits.dtype, device=slots.device)
        dice = _of_slot(similarity.dice, index).detach() * matched
        fit.scatter_reduce_(1, index, dice, "amax")
        weight = torch.where(has_mask, fit, similarity.void_share.detach())
        if self.class_weights is not None:
            of_class = self.class_weights[[*self.thing_ids, *self.stuff_ids]]
            share = positive[..., :-1] / positive[..., :-1].sum(-1, keepdim=True).clamp(min=1.0)
            weight = weight * torch.where(has_mask, share @ of_class, 1.0)
        positive[..., -1] += ~has_mask  # no object
        loss = -(positive * class_logits.log_softmax(-1)).sum(-1)
        # TensorFlow's gradient takes several classes for one; the value counts each of them.
        log_sum = class_logits.logsumexp(-1)
        loss = loss - (positive.sum(-1) - 1) * (log_sum - log_sum.detach())
        loss = loss * torch.where(has_mask, self.matched_share, 1.0 - self.matched_share)
        return average_top_k(weight.clamp(min=_SMALLEST_WEIGHT) * loss, 1.0)

    def discrimination(self, embedding: Tensor, rows: MaskRows) -> Tensor:
        """Pixels of things against the mean embeddings of all masks; embedding ``[B, D, P]``."""
        mean = (
            embedding
            @ rows.one_hot.to(embedding.dtype)
            / rows.one_hot.sum(1, keepdim=True).clamp(min=1.0)
        )
        mean = mean * mean.square().sum(1, keepdim=True).clamp(min=1e-12).rsqrt()
        similarity = mean.transpose(1, 2) @ embedding / self.temperature  # [B, M, P]
        similarity = similarity.masked_fill(~rows.valid[..., None], _NO_SLOT_LOGIT)
        target = torch.where(rows.is_thing, rows.pixel_row, -1)
        losses = F.cross_entropy(similarity, target, ignore_index=-1, reduction="none")
        return average_top_k(losses, 1.0)

    def semantic(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the auxiliary head ``[B, C, h, w]``, at its own resolution."""
        size = (logits.shape[-2], logits.shape[-1])
        classes = subsample(targets["semantic"], size).long()
        losses = F.cross_entropy(
            widened(logits), classes, reduction="none", ignore_index=self.ignore_class
        )
        weighted = losses * subsample(targets["semantic_pixel_weights"], size)
        if self.class_weights is not None:
            weighted = weighted * self.class_weights[classes]
        return average_top_k(weighted.flatten(1), self.semantic_top_k)


def similarity_of(outputs: SlotHeads | MaskHeads | KMaxHeads, rows: MaskRows) -> Similarity:
    """How alike each mask and each slot are."""
    probability = widened(outputs.mask_logits).flatten(2).softmax(1)
    known = rows.is_known[:, None].to(probability.dtype)
    on_known = probability * known
    intersection = (on_known @ rows.one_hot.to(on_known.dtype)).transpose(1, 2)
    mask_area = rows.one_hot.sum(1)
    slot_area = (probability * (rows.pixel_row >= 0)[:, None]).sum(2)
    dice = intersection / ((mask_area[:, :, None] + on_known.sum(2)[:, None]) / 2 + 1e-5)
    void_share = (probability * (1 - known)).sum(2) / (probability.sum(2) + 1e-5)
    by_class = widened(outputs.class_logits).softmax(-1).transpose(1, 2)
    index = rows.class_index[..., None].expand(-1, -1, probability.shape[1])
    return Similarity(
        intersection, mask_area, slot_area, void_share, dice, by_class.gather(1, index)
    )


def _mask_id(logits: Tensor, rows: MaskRows, slots: Tensor) -> Tensor:
    """Cross-entropy over the slots ``[B, N, P]`` at pixels of a mask."""
    has_mask = rows.pixel_row >= 0
    slot = slots.gather(1, rows.pixel_row.clamp(min=0))  # [B, P]
    log_sum = logits.logsumexp(1)
    # Not the log-sum minus the logit: with large logits, small losses would be rounded to 0, and a
    # loss of 0 does not count in the mean.
    loss = F.cross_entropy(logits, slot.clamp(min=0), reduction="none")
    losses = torch.where(slot >= 0, loss, log_sum - _NO_SLOT_LOGIT) * (has_mask & rows.is_known)
    # A crowd that is not void has no slot to be compared with, hence no loss; TensorFlow's
    # cross-entropy has a gradient there all the same, that of the sum over slots.
    without_slot = (log_sum - log_sum.detach()) * (~has_mask & rows.is_known)
    count = (losses != 0).sum(1).clamp(min=1)
    return average_top_k(losses, 1.0) + without_slot.sum(1) / count


def _of_slot(values: Tensor, slots: Tensor) -> Tensor:
    """Values ``[B, M, N]`` at the slot of each mask ``[B, M]``."""
    return values.gather(2, slots[..., None]).squeeze(2)
