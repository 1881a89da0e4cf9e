"""From pictures of any size to segmentations: prepare, batch, predict, restore."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import groupby, islice
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from axialseg.datasets.transforms import EvalTransform
from axialseg.inference.augmented import Augmented
from axialseg.inference.pictures import Picture, PictureLike, as_picture
from axialseg.inference.predict import PostProcess, predict
from axialseg.inference.segmentation import Segmentation
from axialseg.inference.tiles import Tiles
from axialseg.panoptic.categories import Categories

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}


class Options(TypedDict, total=False):
    """Settings of a prediction.

    Attributes:
        things_only: leave out all stuff.
        min_score: leave out segments with a lower score, 0..1.
        scales: the predictions at these scales of the picture are averaged.
        flip: so are those for the mirrored picture.
        tile: (height, width) of tiles that pictures are cut into; they then keep their size. None
            resizes them as the model's evaluation does.
        batch: pictures at a time, of those neighbours that have the same size when prepared.
        precision: 32 or bf16.
    """

    things_only: bool
    min_score: float
    scales: Sequence[float]
    flip: bool
    tile: tuple[int, int] | None
    batch: int
    precision: str


class Segmenter:
    """Segments pictures with a network.

    Args:
        net: in evaluation mode, on its device; maps (image, valid) to raw heads.
        postprocess: of the same family.
        transform: how the model's evaluation prepares images.
        categories: the classes.
        options: see `Options`.

    Raises:
        UserError: a wrong scale.
        ValueError: an unknown precision, or no picture at a time.
    """

    def __init__(
        self,
        net: nn.Module,
        postprocess: PostProcess,
        transform: EvalTransform,
        categories: Categories,
        options: Options,
    ) -> None:
        self.batch = options.get("batch", 1)
        precision = options.get("precision", "32")
        if precision not in DTYPES:
            raise ValueError(f"precision={precision} is none of {', '.join(DTYPES)}")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1")
        self.dtype = DTYPES[precision]
        scales, flip = tuple(options.get("scales", (1.0,))), options.get("flip", False)
        self.net = Augmented(net, scales, flip) if flip or scales != (1.0,) else net
        self.postprocess = postprocess
        tile = options.get("tile")
        self.tiles = None if tile is None else Tiles(tile)
        self.transform = transform
        if tile is not None:
            self.transform = copy(transform)
            self.transform.resize_range = None
        self.categories = categories
        self.things_only = options.get("things_only", False)
        self.min_score = options.get("min_score", 0.0)

    def __call__(self, pictures: Iterable[PictureLike | Picture]) -> Iterator[Segmentation]:
        """One segmentation for each picture, in order; pictures are read as they are needed.

        Raises:
            UserError: a file is missing or damaged, or the tiles have a wrong size.
            TypeError: see `as_picture`; ValueError alike.
        """
        prepared = (self._prepared(as_picture(picture)) for picture in pictures)
        for _, neighbours in groupby(prepared, key=lambda item: item.valid.shape):
            while items := list(islice(neighbours, self.batch)):
                yield from self._segment(items)

    def _prepared(self, picture: Picture) -> "_Prepared":
        image, resized_size = self.transform(picture.pixels)
        chw = torch.from_numpy(image.image).permute(2, 0, 1)
        return _Prepared(picture, chw, torch.from_numpy(image.valid), resized_size)

    def _segment(self, items: "list[_Prepared]") -> Iterator[Segmentation]:
        device = next(self.net.parameters()).device
        batch: dict[str, Any] = {
            "image": torch.stack([item.image for item in items]).to(device),
            "valid": torch.stack([item.valid for item in items]).to(device),
            "index": list(range(len(items))),
            "image_id": list(range(len(items))),
            "file_name": [item.picture.file_name for item in items],
            "original_size": [item.picture.pixels.shape[:2] for item in items],
            "resized_size": [item.resized_size for item in items],
        }
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not torch.float32):
            predictions = predict(self.net, self.postprocess, batch, self.tiles)
        for item, prediction in zip(items, predictions, strict=True):
            found = Segmentation(
                item.picture.pixels,
                prediction.panoptic,
                prediction.scores(),
                self.categories,
                item.picture.file_name,
            )
            yield found.only(self.things_only, self.min_score)


class _Prepared(NamedTuple):
    """A picture as the network gets it: ``[3, h, w]``, valid pixels ``[h, w]``."""

    picture: Picture
    image: Tensor
    valid: Tensor
    resized_size: tuple[int, int]
