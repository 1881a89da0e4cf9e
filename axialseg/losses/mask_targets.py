"""Ground truth of mask losses at the resolution of the prediction: one row for each mask.

Source: deeplab2 ``model/loss/max_deeplab_loss.py``. Difference: only masks that occur have a row.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskRows(NamedTuple):
    """Masks of a batch; M rows, of which a sample may need fewer, P = h * w pixels.

    Attributes:
        pixel_row: int64 ``[B, P]``, row of each pixel's mask, -1 at none.
        one_hot: float ``[B, P, M]``, the same.
        class_index: int64 ``[B, M]``, position of the mask's class among things, then stuff.
        valid: bool ``[B, M]``, rows that stand for a mask.
        is_thing: bool ``[B, P]``.
        is_known: bool ``[B, P]``, False at void.
    """

    pixel_row: Tensor
    one_hot: Tensor
    class_index: Tensor
    valid: Tensor
    is_thing: Tensor
    is_known: Tensor


def subsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Every s-th pixel of ``[B, H, W]``, so that ``[B, *size]`` remains, corners aligned."""
    steps = [
        max((full - 1) // max(small - 1, 1), 1)
        for full, small in zip(x.shape[-2:], size, strict=True)
    ]
    return x[:, :: steps[0], :: steps[1]][:, : size[0], : size[1]]


def mask_rows(
    targets: Mapping[str, Tensor],
    size: tuple[int, int],
    thing_ids: Sequence[int],
    stuff_ids: Sequence[int],
    ignore_class: int,
) -> MaskRows:
    """Brings masks of things and of stuff classes to one list; those without a pixel are left out.

    Args:
        targets: ``semantic`` int ``[B, H, W]``, ``thing_id_mask`` int ``[B, H, W]`` (-1 at no
            thing), ``thing_id_class`` ``[B, T]`` (-1 past the last thing).
        size: (h, w) of the prediction.
        thing_ids: class ids.
        stuff_ids: class ids.
        ignore_class: void.
    """
    semantic = subsample(targets["semantic"], size).flatten(1).long()
    thing = subsample(targets["thing_id_mask"], size).flatten(1).long()
    thing_class = targets["thing_id_class"].long()
    batch, things = thing_class.shape
    device = semantic.device

    stuff = torch.tensor(stuff_ids, dtype=torch.long, device=device)
    entries = max(*thing_ids, *stuff_ids, ignore_class) + 1
    stuff_row = torch.full((entries,), -1, device=device)
    stuff_row[stuff] = things + torch.arange(len(stuff_ids), device=device)
    index_of_class = torch.zeros(entries, dtype=torch.long, device=device)
    index_of_class[[*thing_ids, *stuff_ids]] = torch.arange(
        len(thing_ids) + len(stuff_ids), device=device
    )
    row = torch.where(thing >= 0, thing, stuff_row[semantic])
    classes = torch.cat([thing_class, stuff.expand(batch, -1)], dim=1)
    area = torch.zeros(batch, classes.shape[1] + 1, device=device)
    area.scatter_add_(1, row + 1, torch.ones_like(row, dtype=area.dtype))
    present = (area[:, 1:] > 0) & (classes >= 0)

    count = present.sum(1)
    rows = max(int(count.max()), 1)
    position = torch.where(present, present.cumsum(1) - 1, -1)  # in the list of those present
    pixel_row = F.pad(position, (1, 0), value=-1).gather(1, row + 1)
    class_index = torch.zeros(batch, rows + 1, dtype=torch.long, device=device)
    class_index.scatter_(1, position + 1, index_of_class[classes.clamp(min=0)])
    return MaskRows(
        pixel_row,
        F.one_hot(pixel_row + 1, rows + 1)[..., 1:].float(),
        class_index[:, 1:],
        torch.arange(rows, device=device) < count[:, None],
        thing >= 0,
        semantic != ignore_class,
    )
