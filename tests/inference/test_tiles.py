"""Tiled inference: a scene whose objects go across the seams, for both families of networks."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.errors import UserError
from axialseg.inference.predict import PanopticPrediction, predict
from axialseg.inference.tiles import Tiles, tile_starts
from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess

CATEGORIES = Categories(
    (
        Category(1, "bus", True, 1, (200, 0, 0)),
        Category(2, "car", True, 2, (0, 200, 0)),
        Category(3, "road", False, 3, (0, 0, 200)),
        Category(4, "sky", False, 4, (0, 200, 200)),
    ),
    ignore_class=0,
)
SIZE = (257, 385)
STUFF_LIMIT = 3000
# Top, left, bottom, right of the things; the first is longer than two tiles, the last in one.
THINGS = {1: (100, 10, 160, 375), 2: (10, 120, 250, 150), 3: (170, 200, 250, 300)}
THINGS |= {4: (20, 180, 60, 260), 5: (180, 20, 190, 30)}


def scene() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """(image, panoptic map): red is the thing's number, green its class."""
    number = np.zeros(SIZE, np.int32)
    class_id = np.full(SIZE, 3, np.int32)
    # 2 x 4 stripes of sky: less than the limit in any tile, more in the whole image.
    class_id[:, ::12] = 4
    for thing, (top, left, bottom, right) in THINGS.items():
        number[top:bottom, left:right] = thing
        class_id[top:bottom, left:right] = 1 + thing % 2
    image = np.stack([20 * number, 20 * class_id, np.zeros_like(number)], -1).astype(np.uint8)
    return image, class_id * 65536 + number


def seen(image: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers and classes ``[H, W]`` of a scene's image ``[3, H, W]``."""
    return image[0].long() // 20, image[1].long() // 20


class Centers(nn.Module):
    """Panoptic-DeepLab's heads; the centre of a thing is that of the part in view."""

    def forward(self, image: Tensor, valid: Tensor) -> PanopticHeads:
        heads = [self.one(*seen(x)) for x in image]
        return PanopticHeads(*(torch.stack(part) for part in zip(*heads, strict=True)))

    def one(self, number: Tensor, class_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        semantic = 5.0 * nn.functional.one_hot(class_id, 5).permute(2, 0, 1).float()
        center = torch.zeros((1, *number.shape))
        offset = torch.zeros((2, *number.shape))
        for thing in number.unique().tolist():
            where = (number == thing).nonzero()
            if thing:
                middle = where[len(where) // 2]
                center[0, middle[0], middle[1]] = 0.9
                offset[:, where[:, 0], where[:, 1]] = (middle - where).T.float()
        return semantic, center, offset


class Slots(nn.Module):
    """MaX-DeepLab's heads, with the slots in another order for each tile."""

    def forward(self, image: Tensor, valid: Tensor) -> MaskHeads:
        heads = [self.one(*seen(x)) for x in image]
        masks, classes = (torch.stack(part) for part in zip(*heads, strict=True))
        return MaskHeads(masks, classes, masks, masks)

    def one(self, number: Tensor, class_id: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(int(number.sum())))
        value = class_id * 100 + number
        masks = torch.full((12, *number.shape), -20.0)
        classes = torch.zeros(12, 5)
        classes[:, 4] = 9.0
        for slot, what in zip(order.tolist(), value.unique().tolist(), strict=False):
            masks[slot][value == what] = 20.0
            classes[slot] = 9.0 * nn.functional.one_hot(torch.tensor(what // 100 - 1), 5)
        return masks, classes


FAMILIES = {
    "centers": (
        Centers(),
        PanopticDeepLabPostProcess(CATEGORIES, nms_kernel=3, stuff_area_limit=STUFF_LIMIT),
    ),
    "pixel-wise": (Slots(), PixelWisePostProcess(CATEGORIES, stuff_area_limit=STUFF_LIMIT)),
    "mask-wise": (Slots(), MaskWisePostProcess(CATEGORIES, stuff_area_limit=STUFF_LIMIT)),
}


def predicted(family: str, tiles: Tiles | None, **limits: Any) -> PanopticPrediction:
    net, postprocess = FAMILIES[family]
    image = torch.from_numpy(scene()[0]).permute(2, 0, 1)[None]
    batch = {
        "image": image,
        "valid": torch.ones((1, *SIZE), dtype=torch.bool),
        "image_id": [0],
        "file_name": ["a.png"],
        "index": [0],
        "original_size": [SIZE],
        "resized_size": [SIZE],
    }
    return predict(net, postprocess, batch, tiles)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tile", [(129, 129), (100, 150), (257, 97)])
def test_things_do_not_break_at_seams(family: str, tile: tuple[int, int]) -> None:
    truth = scene()[1]
    prediction = predicted(family, Tiles(tile))
    np.testing.assert_array_equal(prediction.panoptic // 65536, truth // 65536)
    np.testing.assert_array_equal(prediction.semantic, truth // 65536)
    pairs = np.unique(np.stack([truth, prediction.panoptic]).reshape(2, -1), axis=1)
    assert pairs.shape[1] == len(THINGS) + 2  # one to one
    assert len(np.unique(pairs[1])) == len(THINGS) + 2
    segments = segments_from_panoptic_map(prediction.panoptic, 0)
    scores = prediction.scores()
    assert len(scores) == len(segments.class_ids)
    whole = dict(zip(segments.class_ids.tolist(), scores.tolist(), strict=True))
    assert whole[1] == pytest.approx(predicted(family, None).scores()[0], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_area_limits_are_those_of_the_whole_image(family: str) -> None:
    _, postprocess = FAMILIES[family]
    assert predicted(family, Tiles((129, 129))).removed["stuff_area_limit"] == {}
    larger = type(postprocess)(CATEGORIES, stuff_area_limit=20_000)
    if family == "centers":
        larger.nms_kernel = 3
    results = []
    for tiles in (None, Tiles((129, 129))):
        FAMILIES["larger"] = (FAMILIES[family][0], larger)
        results.append(predicted("larger", tiles))
    del FAMILIES["larger"]
    for result in results:
        assert 4 not in result.panoptic // 65536
        assert result.removed["stuff_area_limit"] == {4: 1}
    np.testing.assert_array_equal(results[0].panoptic == 0, results[1].panoptic == 0)


def test_one_tile_is_the_whole_image() -> None:
    for family in FAMILIES:
        whole, tiled = predicted(family, None), predicted(family, Tiles((512, 512)))
        np.testing.assert_array_equal(whole.panoptic // 65536, tiled.panoptic // 65536)
        np.testing.assert_array_equal(whole.semantic, tiled.semantic)
        np.testing.assert_allclose(whole.scores(), tiled.scores(), rtol=1e-5)


# The last two are off the grid of 32: images padded to multiples of 16, as of `data=shapes`.
@pytest.mark.parametrize(
    ("length", "tile"),
    [(1025, 513), (2049, 513), (97, 65), (65, 65), (113, 97), (145, 97)],
)
def test_tiles_cover_with_their_overlap(length: int, tile: int) -> None:
    starts = tile_starts(length, tile, 0.25)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    assert all(start % 32 == 0 for start in starts[:-1])
    for before, after in itertools.pairwise(starts):
        assert before < after
        assert before + tile - after >= 0.25 * (tile - 1)


@pytest.mark.parametrize("tiles", [Tiles((0, 64)), Tiles((64, 64), 1.0), Tiles((64, 64), -0.1)])
def test_bad_tiles_are_refused(tiles: Tiles) -> None:
    with pytest.raises(UserError, match="cuts no image"):
        predicted("centers", tiles)
