"""Images that are larger than a network's input: cut into tiles, predicted, and put together.

Heads cannot be averaged where tiles overlap: a tile with half of a thing has the centre at another
place, and the slots of two tiles do not correspond. So each tile is segmented for itself. Things of
two tiles are one thing if they agree in the overlap (IoU > 0.5 there). They may have any size and
lie in any number of tiles. Each pixel is taken from the tile in which it is farthest from the end.
Limits on areas apply to the whole image. This works for every family of models.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from axialseg.errors import UserError
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.restore import restore_labels

STRIDE = 32  # tiles start on the grid of the deepest features


class Tiles(NamedTuple):
    """How images are cut.

    Attributes:
        size: (height, width) in pixels; rounded up to multiples of 32 and one more.
        overlap: of two neighbours, at the least, as a share of the tile.
    """

    size: tuple[int, int]
    overlap: float = 0.25


class TiledMaps(NamedTuple):
    """The segmentation of a whole image; the attributes are those of `predict.LabelMaps`.

    Attributes:
        class_score: float32 ``[H, W]``.
        instance_score: float32 ``[H, W]``.
    """

    panoptic: Tensor
    semantic: Tensor
    class_score: Tensor
    instance_score: Tensor
    removed: dict[str, Tensor]
    capacity: int | None

    def score_maps(self, panoptic: Tensor, resized: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores of classes and of instances at the size of `panoptic`; float32 ``[H', W']``."""
        size = (panoptic.shape[0], panoptic.shape[1])
        return (
            restore_labels(self.class_score, resized, size),
            restore_labels(self.instance_score, resized, size),
        )


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles that cover `length` pixels, evenly spread on the grid of 32.

    The last tile ends with the image, so it is off the grid where the image is.

    Args:
        length: of the image.
        tile: of a tile; ``32 k + 1``.
        overlap: at the least, as a share of the tile.
    """
    if length <= tile:
        return [0]
    rest = -(-(length - tile) // STRIDE)
    most = max(int((1 - overlap) * (tile - 1)) // STRIDE, 1)  # steps from tile to tile
    count = -(-rest // most)
    starts = [STRIDE * (rest * number // count) for number in range(count)]
    return [*starts, length - tile]


def segment_tiles(
    net: nn.Module, postprocess: Any, image: Tensor, valid: Tensor, tiles: Tiles
) -> list[TiledMaps]:
    """Segments the images of a batch tile by tile.

    Args:
        net: in evaluation mode; maps (image, valid) to raw heads.
        postprocess: of the same family, see `predict.PostProcess`.
        image: ``[B, 3, H, W]``.
        valid: bool ``[B, H, W]``.
        tiles: how to cut.

    Raises:
        UserError: a side of the tiles is no positive number, or the overlap is not in [0, 1).
    """
    if min(tiles.size) < STRIDE or not 0 <= tiles.overlap < 1:
        raise UserError(
            f"tile={list(tiles.size)} with an overlap of {tiles.overlap} cuts no image; give "
            f"(height, width) of at least {STRIDE} pixels and an overlap from 0 to 0.9."
        )
    unlimited = postprocess.without_area_limits()
    height, width = (-(-(side - 1) // STRIDE) * STRIDE + 1 for side in tiles.size)
    whole = image.shape[-2], image.shape[-1]
    rows = tile_starts(whole[0], height, tiles.overlap)
    columns = tile_starts(whole[1], width, tiles.overlap)
    seams = [_Seams(whole, image.device, postprocess.ignore_class) for _ in range(len(image))]
    for top in rows:
        for left in columns:
            window = (slice(top, top + height), slice(left, left + width))
            part, part_valid = image[..., *window], valid[..., *window]
            if not part_valid.any():
                continue
            size = (part.shape[-2], part.shape[-1])
            for results, seam in zip(unlimited(net(part, part_valid), size), seams, strict=True):
                seam.add(results, window)
    return [seam.maps(postprocess) for seam in seams]


class _Seams:
    """An image that is put together from tiles."""

    def __init__(self, size: tuple[int, int], device: torch.device, ignore_class: int) -> None:
        self.depth = torch.zeros(size, dtype=torch.int32, device=device)
        self.void = ignore_class * CLASS_DIVISOR
        self.thing = torch.zeros(size, dtype=torch.long, device=device)  # number, 0: no thing
        self.panoptic = torch.full_like(self.thing, self.void)
        self.semantic = torch.full_like(self.thing, ignore_class)
        self.scores = torch.zeros((2, *size), device=device)
        self.count = 0  # things so far
        self.removed: dict[str, Tensor] = {}
        self.capacity: int | None = 0

    def add(self, result: Any, window: tuple[slice, slice]) -> None:
        """Adds a tile.

        Args:
            result: of the tile, see `predict.LabelMaps`.
            window: rows and columns of the tile.
        """
        for name, count in result.removed.items():
            self.removed[name] = self.removed.get(name, 0) + count
        both_known = self.capacity is not None and result.capacity is not None
        self.capacity = self.capacity + result.capacity if both_known else None
        panoptic = result.panoptic.long()
        values, number = panoptic.unique(return_inverse=True)
        numbers = torch.where(values % CLASS_DIVISOR > 0, torch.arange(len(values)).to(values), -1)
        thing = numbers[number] + 1  # 0: no thing
        before = self.thing[window]
        known = self.depth[window] > 0
        table = torch.bincount(
            before[known] * (len(values) + 1) + thing[known],
            minlength=(self.count + 1) * (len(values) + 1),
        ).view(self.count + 1, len(values) + 1)
        shared = table[1:, 1:]
        union = table[1:].sum(1, keepdim=True) + table[:, 1:].sum(0) - shared
        joins = 2 * shared > union  # at most one for each thing on either side
        fresh = ~joins.any(0) & (numbers >= 0)
        joined = joins.int().argmax(0) if self.count else torch.zeros_like(values)
        name = torch.where(fresh, self.count + fresh.cumsum(0), joined + 1)
        name = torch.cat([name.new_zeros(1), torch.where(numbers >= 0, name, 0)])
        self.count += int(fresh.sum())

        depth = _depth(panoptic.shape, window, self.depth)
        deeper = depth > self.depth[window]
        class_score, instance_score = result.score_maps(panoptic, tuple(panoptic.shape))
        for whole, part in (
            (self.depth, depth),
            (self.thing, name[thing]),
            (self.panoptic, panoptic),
            (self.semantic, result.semantic.long()),
            (self.scores[0], class_score),
            (self.scores[1], instance_score),
        ):
            whole[window] = torch.where(deeper, part, whole[window])

    def maps(self, postprocess: Any) -> TiledMaps:
        """The whole image: a thing has the class of most of its pixels; small segments are void."""
        classes = self.panoptic // CLASS_DIVISOR
        size = int(classes.max()) + 1
        votes = torch.bincount(
            self.thing.flatten() * size + classes.flatten(), minlength=(self.count + 1) * size
        ).view(-1, size)
        value = votes.argmax(1) * CLASS_DIVISOR + torch.arange(len(votes)).to(votes)
        panoptic = torch.where(self.thing > 0, value[self.thing], self.panoptic)
        values, segment, area = panoptic.unique(return_inverse=True, return_counts=True)
        small: Mapping[str, Tensor] = {}
        is_thing = values % CLASS_DIVISOR > 0
        for limit, of_kind in (("thing_area_limit", is_thing), ("stuff_area_limit", ~is_thing)):
            pixels = postprocess.area_limits.get(limit, 0)
            is_small = of_kind & (area < pixels) & (values != self.void)
            removed = torch.bincount(values[is_small] // CLASS_DIVISOR, minlength=size)
            small = {**small, limit: removed} if pixels else small
            values = torch.where(is_small, self.void, values)
        return TiledMaps(
            values[segment].int(),
            self.semantic.int(),
            self.scores[0],
            self.scores[1],
            {**self.removed, **small},
            self.capacity,
        )


def _depth(size: torch.Size, window: tuple[slice, slice], whole: Tensor) -> Tensor:
    """How far each pixel of a tile is from its nearest end inside the image, from 1; int32."""
    sides = []
    for length, part, limit in zip(size, window, whole.shape, strict=True):
        place = torch.arange(length, dtype=torch.int32, device=whole.device)
        far = torch.full_like(place, limit)
        before = place + 1 if part.start > 0 else far
        after = length - place if part.start + length < limit else far
        sides.append(torch.minimum(before, after))
    return torch.minimum(sides[0][:, None], sides[1][None, :])
