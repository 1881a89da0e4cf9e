"""The loss of kMaX-DeepLab: that of MaX-DeepLab, also for the prediction of each k-means block.

Source: Yu et al. 2022, "k-means Mask Transformer" (arXiv 2207.04044), sec. 3.3 and 4.1; deeplab2
``model/loss/max_deeplab_loss.py``; the contrast of pixels is of Yu et al. 2022, "CMT-DeepLab"
(arXiv 2206.08948), sec. 3.2.

Shapes as in ``max_deeplab_loss.py``; S sampled pixels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from axialseg.decoders.max_deeplab import KMaxHeads, SlotHeads
from axialseg.losses.losses import Losses
from axialseg.losses.mask_targets import MaskRows
from axialseg.losses.max_deeplab_loss import Matched, MaxDeepLabLoss, similarity_of
from axialseg.losses.top_k import average_top_k

_VOID_LOGIT = -99999.0  # void pixels are sampled when nothing else is left
_SMALLEST_NOISE = 2.0**-25  # the logarithm of 0 is infinite


class KMaxDeepLabLoss(MaxDeepLabLoss):
    """MaX-DeepLab's terms for the heads, and all but the semantic one for each auxiliary output.

    The masks are matched once, with the heads. The auxiliary outputs take over the slots of the
    masks and the weights: the probabilities of the classes, the Dice coefficients and the shares
    of void.

    Args:
        sampled_pixels: S, at most; an image with fewer pixels takes them all.
        sample_temperature: the larger, the more likely are pixels of small masks.

    The other arguments are those of `MaxDeepLabLoss`. Class weights count for the class terms of
    the auxiliary outputs too.
    """

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
        sampled_pixels: int,
        sample_temperature: float,
        semantic_top_k: float,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            ignore_class,
            thing_ids,
            stuff_ids,
            pq_weight,
            mask_id_weight,
            instance_discrimination_weight,
            semantic_weight,
            matched_share,
            temperature,
            semantic_top_k,
            class_weights,
        )
        self.sampled_pixels = sampled_pixels
        self.sample_temperature = sample_temperature

    def forward(  # type: ignore[override]
        self,
        outputs: KMaxHeads,
        targets: Mapping[str, Tensor],
        matching: Tensor | None = None,
    ) -> Losses:
        """`MaxDeepLabLoss`'s terms, and those of the auxiliary outputs, summed, with ``aux_``.

        The arguments are those of `MaxDeepLabLoss.forward`.
        """
        size = (outputs.mask_logits.shape[-2], outputs.mask_logits.shape[-1])
        with torch.autocast(outputs.mask_logits.device.type, enabled=False):
            matched = self.matched(outputs, targets, matching)
            terms = self.main_terms(outputs, targets, matched)
            for heads in outputs.auxiliary:
                for name, term in self.auxiliary_terms(heads.resized(size), matched).items():
                    terms[f"aux_{name}"] = terms.get(f"aux_{name}", 0.0) + term
            return self.summed(terms, outputs.mask_logits.shape[1])

    def auxiliary_terms(self, heads: SlotHeads, matched: Matched) -> dict[str, Tensor]:
        """The terms of one auxiliary output at the resolution of the main one."""
        similarity = similarity_of(heads, matched.rows)._replace(
            dice=matched.similarity.dice,
            class_probability=matched.similarity.class_probability,
            void_share=matched.similarity.void_share,
        )
        return self.mask_terms(heads, matched._replace(similarity=similarity))

    def discrimination(self, embedding: Tensor, rows: MaskRows) -> Tensor:
        """Sampled pixels ``[B, D, P]`` against each other: those of a mask belong together."""
        count = min(self.sampled_pixels, embedding.shape[2])
        logits = sample_logits(rows, self.sample_temperature)
        logits = logits + gumbel_noise(uniform(logits))
        # Stable: among void pixels there are ties in float32, and the first one wins.
        index = logits.argsort(dim=1, descending=True, stable=True)[:, :count]
        sampled = embedding.gather(2, index[:, None].expand(-1, embedding.shape[1], -1))
        row = rows.pixel_row.gather(1, index)
        has_row = row >= 0
        # log_softmax is one kernel there and one back, half the time of logsumexp's passes.
        scaled = sampled / self.temperature
        pairs = (sampled.transpose(1, 2) @ scaled).log_softmax(2)
        log_sum = (sampled * scaled).sum(1) - pairs.diagonal(dim1=1, dim2=2)
        # The mean similarity to the pixels of a mask is that to their mean: no more [B, S, S].
        one_hot = rows.one_hot.gather(1, index[..., None].expand(-1, -1, rows.one_hot.shape[2]))
        one_hot = one_hot.to(sampled.dtype)
        means = sampled @ one_hot / one_hot.sum(1, keepdim=True).clamp(min=1.0)  # [B, D, M]
        own = means.gather(2, row.clamp(min=0)[:, None].expand(-1, sampled.shape[1], -1))
        losses = (log_sum - (sampled * own).sum(1) / self.temperature) * has_row
        # A pixel without a mask has no loss, but TensorFlow's cross-entropy has a gradient there.
        without_row = (log_sum - log_sum.detach()) * ~has_row
        counted = (losses != 0).sum(1)
        without_row = without_row.sum(1) * (counted > 0) / counted.clamp(min=1)
        return average_top_k(losses, 1.0) + without_row


def sample_logits(rows: MaskRows, temperature: float) -> Tensor:
    """How likely each pixel is sampled, as logits ``[B, P]``: the smaller its mask, the more.

    What belongs to no mask, a crowd, counts as a mask of one pixel.
    """
    area = rows.one_hot.sum(1)
    own = area.gather(1, rows.pixel_row.clamp(min=0)) * (rows.pixel_row >= 0)
    logits = temperature * torch.log(rows.pixel_row.shape[1] / own.clamp(min=1.0))
    return logits + _VOID_LOGIT * ~rows.is_known


def uniform(like: Tensor) -> Tensor:
    """Random numbers in (0, 1) of that shape."""
    return torch.rand_like(like).clamp(min=_SMALLEST_NOISE)


def gumbel_noise(numbers: Tensor) -> Tensor:
    """With it, the largest logits are a sample without replacement of their softmax."""
    return -torch.log(-torch.log(numbers))
