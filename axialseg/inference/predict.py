"""From images to panoptic predictions; validation, evaluation and all else use this function."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialseg.inference.tiles import Tiles, segment_tiles
from axialseg.postprocess.restore import restore_labels
from axialseg.postprocess.segment_scores import segment_scores


class PanopticPrediction(NamedTuple):
    """The prediction for one image at its original resolution.

    Attributes:
        panoptic: int32 ``[H, W]``, class id * 65536 + instance; void is ignore class * 65536.
        semantic: int32 ``[H, W]``, class ids; not filtered by confidence or area.
        image_id: as the data set has it.
        file_name: path of the image below the folder of the images, for messages and pictures.
        position: of the image in the data set.
        scores: float64 ``[P]`` when called: how sure the network is of each segment, in the order
            of `segments_from_panoptic_map`; see `segment_scores`.
        removed: name of a limit of the post-processing -> class id -> how many segments of that
            class it has removed.
        capacity: segments that can be predicted for an image; None: any number.
    """

    panoptic: NDArray[np.int32]
    semantic: NDArray[np.int32]
    image_id: int | str
    file_name: str
    position: int
    scores: Callable[[], NDArray[np.float64]]
    removed: dict[str, dict[int, int]]
    capacity: int | None


class LabelMaps(Protocol):
    """What `predict` reads of a post-processing's result for one image."""

    @property
    def panoptic(self) -> Tensor:
        """int32 ``[H, W]``."""
        ...

    @property
    def semantic(self) -> Tensor:
        """int32 ``[H, W]``."""
        ...

    @property
    def removed(self) -> dict[str, Tensor]:
        """Name of a limit -> how many segments it has removed, int64 ``[C]`` by class id."""
        ...

    @property
    def capacity(self) -> int | None:
        """Segments that can be predicted for an image; None: any number."""
        ...

    def score_maps(self, panoptic: Tensor, resized: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores of classes and of instances at the size of `panoptic`; float32 ``[H', W']``."""
        ...


class PostProcess(Protocol):
    """Raw heads of a network -> label maps of each image at the size (H, W)."""

    ignore_class: int

    def __call__(self, outputs: Any, size: tuple[int, int]) -> list[LabelMaps]:
        """One entry per image."""
        ...

    def without_area_limits(self) -> Self:
        """The same for a part of an image, whose segments may go on outside of it."""
        ...


@torch.inference_mode()
def predict(
    net: nn.Module,
    postprocess: PostProcess,
    batch: Mapping[str, Any],
    tiles: Tiles | None = None,
) -> list[PanopticPrediction]:
    """Predicts the images of an evaluation batch.

    Args:
        net: in evaluation mode; maps (image, valid) to raw heads.
        postprocess: of the same family as the net.
        batch: ``image`` uint8 ``[B, 3, H, W]``, ``valid`` bool ``[B, H, W]``, and the lists
            ``image_id``, ``file_name``, ``original_size``, ``resized_size`` of length B. There may
            be ``index``, the place of each in the data set. If images were padded further to be
            stacked, ``padded_size`` has the (height, width) that each has alone. Images of one
            padded size go through the net together. So a prediction does not depend on the others
            of its batch.
        tiles: cut larger images into tiles; None: the whole image at once.

    Returns:
        One prediction per image, in order.
    """
    image = batch["image"]
    full = (image.shape[-2], image.shape[-1])
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(batch.get("padded_size", [full] * len(image))):
        groups.setdefault(tuple(size), []).append(index)
    results: dict[int, LabelMaps] = {}
    for size, members in groups.items():
        maps = _label_maps(net, postprocess, batch, size, members, tiles)
        results |= zip(members, maps, strict=True)
    predictions = []
    for index in range(len(image)):
        result = results[index]
        resized, original = batch["resized_size"][index], batch["original_size"][index]
        panoptic = restore_labels(result.panoptic, resized, original)
        predictions.append(
            PanopticPrediction(
                panoptic.cpu().numpy(),
                restore_labels(result.semantic, resized, original).cpu().numpy(),
                batch["image_id"][index],
                batch["file_name"][index],
                batch.get("index", range(len(image)))[index],
                _scores(result, panoptic, resized, postprocess.ignore_class),
                {limit: _by_class(counts) for limit, counts in result.removed.items()},
                result.capacity,
            )
        )
    return predictions


def _label_maps(
    net: nn.Module,
    postprocess: PostProcess,
    batch: Mapping[str, Any],
    size: tuple[int, int],
    members: list[int],
    tiles: Tiles | None,
) -> Sequence[LabelMaps]:
    """The label maps of the images `members` of a batch, each cut to `size`."""
    image, valid = batch["image"], batch["valid"]
    if len(members) < len(image) or size != tuple(image.shape[-2:]):
        is_last = image.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        image = image[members, :, : size[0], : size[1]].contiguous(memory_format=layout)
        valid = valid[members, : size[0], : size[1]].contiguous()
    if tiles is not None:
        return segment_tiles(net, postprocess, image, valid, tiles)
    return postprocess(net(image, valid), size)


def _by_class(counts: Tensor) -> dict[int, int]:
    """Class id -> count, of those that are not 0."""
    return {class_id: count for class_id, count in enumerate(counts.tolist()) if count}


def _scores(
    result: LabelMaps, panoptic: Tensor, resized: tuple[int, int], ignore_class: int
) -> Callable[[], NDArray[np.float64]]:
    """Counts the scores when they are asked for, once."""

    @cache
    @torch.inference_mode()
    def scores() -> NDArray[np.float64]:
        class_score, instance_score = result.score_maps(panoptic, resized)
        return segment_scores(
            panoptic.cpu().numpy(),
            class_score.cpu().numpy(),
            instance_score.cpu().numpy(),
            ignore_class,
        )

    return scores
