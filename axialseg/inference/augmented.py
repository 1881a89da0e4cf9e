"""Test-time augmentation: a network that sees each image at several scales and mirrored.

Panoptic-DeepLab's heads are the mean over all views of the semantic probabilities, the heat-map and
the offsets at the size of the image, as in deeplab2 (``eval_scales`` and ``add_flipped``).

For MaX-DeepLab's heads deeplab2 has no definition. Slots of two views do not correspond. So the
slots of each view are matched one to one with those of the first view, by the largest sum of
similarities. A similarity is the Dice coefficient of two masks times the dot product of the class
probabilities, as in the training of MaX-DeepLab (Wang et al. 2021, sec. 3.2). Then probabilities
of masks (a softmax over the slots at each pixel) and of classes are averaged. With one view the
result is that of the network, and the order of the slots does not matter.

One view at a time is in memory, beside the sum.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.errors import UserError
from axialseg.layers.resize import resize_bilinear, resize_nearest

SMALLEST = 1e-30  # probability whose logarithm is finite


class Augmented(nn.Module):
    """A network whose heads are those of several views of the image.

    Args:
        net: maps (image, valid) to raw heads of one of the two families.
        scales: of the views; the side n becomes ``trunc((n - 1) scale + 1)`` pixels.
        flip: add each view mirrored from left to right.

    Raises:
        UserError: there is no scale, or one is not positive.
    """

    def __init__(self, net: nn.Module, scales: Sequence[float], flip: bool) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise UserError(f"scales={list(scales)} must be positive numbers, such as [0.5,1,2]")
        self.net = net
        self.scales = [float(scale) for scale in scales]
        self.flip = flip

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Any:
        """Raw heads; image ``[B, 3, H, W]`` in 0..255, valid bool ``[B, H, W]``.

        With a single view, those of the net. Else the logits are logarithms of mean probabilities,
        Panoptic-DeepLab's at the size of the image.
        """
        size = image.shape[-2], image.shape[-1]
        views = [(s, mirrored) for s in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        total: _MeanOfHeads | _MeanOfMasks | None = None
        for scale, mirrored in views:
            outputs = self._view(image, valid, scale, mirrored)
            if len(views) == 1 and scale == 1.0:
                return outputs
            if total is None:
                is_centers = isinstance(outputs, PanopticHeads)
                total = _MeanOfHeads(size) if is_centers else _MeanOfMasks(outputs)
            total.add(outputs, mirrored)
        assert total is not None
        return total.heads(len(views))

    def _view(self, image: Tensor, valid: Tensor | None, scale: float, mirrored: bool) -> Any:
        height, width = (int((side - 1) * scale + 1) for side in image.shape[-2:])
        if scale != 1.0:
            image = resize_bilinear(image.float(), (height, width))
            valid = None if valid is None else resize_nearest(valid, (height, width))
        if mirrored:
            image = image.flip(-1)
            valid = None if valid is None else valid.flip(-1)
        return self.net(image, valid)


class _MeanOfHeads:
    """Panoptic-DeepLab's heads."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.total: list[Tensor] | None = None

    def add(self, outputs: PanopticHeads, mirrored: bool) -> None:
        """Adds a view."""
        heads = outputs.resized(self.size)
        parts = [heads.semantic.float().softmax(1), heads.center.float(), heads.offset.float()]
        if mirrored:
            parts = [part.flip(-1) for part in parts]
            parts[2] = parts[2] * parts[2].new_tensor([1.0, -1.0]).view(1, 2, 1, 1)
        if self.total is None:
            self.total = parts
        else:
            self.total = [old.add_(new) for old, new in zip(self.total, parts, strict=True)]

    def heads(self, count: int) -> PanopticHeads:
        """The mean."""
        assert self.total is not None
        semantic, center, offset = (part / count for part in self.total)
        return PanopticHeads(semantic.clamp_min(SMALLEST).log(), center, offset)


class _MeanOfMasks:
    """MaX-DeepLab's heads."""

    def __init__(self, first: MaskHeads) -> None:
        self.first = first
        self.masks: Tensor | None = None  # [B, N, h, w]
        self.classes: Tensor | None = None  # [B, N, K + 1]

    def add(self, outputs: MaskHeads, mirrored: bool) -> None:
        """Adds a view."""
        size = cast(tuple[int, int], tuple(self.first.mask_logits.shape[-2:]))
        logits = outputs.mask_logits.float()
        masks = resize_bilinear(logits.flip(-1) if mirrored else logits, size).softmax(1)
        classes = outputs.class_logits.float().softmax(-1)
        if self.masks is None or self.classes is None:
            self.masks, self.classes = masks, classes
            return
        for mask, group, new_mask, new_group in zip(
            self.masks, self.classes, masks, classes, strict=True
        ):
            order = matching_slots(mask, group, new_mask, new_group)
            mask += new_mask[order]
            group += new_group[order]

    def heads(self, count: int) -> MaskHeads:
        """The mean; what only the loss needs is taken from the first view."""
        assert self.masks is not None
        assert self.classes is not None
        return self.first._replace(
            mask_logits=(self.masks / count).clamp_min(SMALLEST).log(),
            class_logits=(self.classes / count).clamp_min(SMALLEST).log(),
        )


def matching_slots(masks: Tensor, classes: Tensor, others: Tensor, other_classes: Tensor) -> Tensor:
    """For each slot of a view, the slot of another view that it is matched with; int64 ``[N]``.

    Args:
        masks: ``[N, h, w]``, probabilities up to a common factor.
        classes: ``[N, K + 1]``, probabilities up to a common factor; the last is "no object".
        others: ``[N, h, w]``, of the other view.
        other_classes: ``[N, K + 1]``, likewise.
    """
    first, second = masks.flatten(1), others.flatten(1)
    first = first / first.sum(0, keepdim=True)
    dice = 2 * (first @ second.T) / (first.sum(1)[:, None] + second.sum(1)).clamp_min(SMALLEST)
    first_class = classes / classes.sum(-1, keepdim=True)
    same_class = first_class[:, :-1] @ other_classes[:, :-1].T
    similarity = (dice * same_class).double().cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(similarity, maximize=True)[1]).to(masks.device)
