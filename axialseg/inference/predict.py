"""The one door from images to panoptic predictions: validation, evaluation and the rest use it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialseg.postprocess.restore import restore_labels


class PanopticPrediction(NamedTuple):
    """The prediction for one image at its original resolution.

    Attributes:
        panoptic: int32 ``[H, W]``, class id * 65536 + instance; void is ignore class * 65536.
        semantic: int32 ``[H, W]``, class ids; not filtered by confidence or area.
        image_id: as the data set has it.
        file_name: path of the image below the folder of the images, for messages and pictures.
    """

    panoptic: NDArray[np.int32]
    semantic: NDArray[np.int32]
    image_id: int | str
    file_name: str


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


class PostProcess(Protocol):
    """Raw heads of a network -> label maps of each image at the size (H, W)."""

    def __call__(self, outputs: Any, size: tuple[int, int]) -> list[LabelMaps]:
        """One entry per image."""
        ...


@torch.inference_mode()
def predict(
    net: nn.Module, postprocess: PostProcess, batch: Mapping[str, Any]
) -> list[PanopticPrediction]:
    """Predicts the images of an evaluation batch.

    Args:
        net: in evaluation mode; maps (image, valid) to raw heads.
        postprocess: of the same family as the net.
        batch: ``image`` uint8 ``[B, 3, H, W]``, ``valid`` bool ``[B, H, W]``, and the lists
            ``image_id``, ``file_name``, ``original_size``, ``resized_size`` of length B; where
            images were padded further to be stacked, also ``padded_size``, the (height, width)
            that each has alone. Images of one padded size go through the net together, so that a
            prediction does not depend on the others of its batch.

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
        results |= zip(members, _label_maps(net, postprocess, batch, size, members), strict=True)
    predictions = []
    for index in range(len(image)):
        result = results[index]
        resized, original = batch["resized_size"][index], batch["original_size"][index]
        panoptic, semantic = (
            restore_labels(labels, resized, original).cpu().numpy()
            for labels in (result.panoptic, result.semantic)
        )
        predictions.append(
            PanopticPrediction(
                panoptic, semantic, batch["image_id"][index], batch["file_name"][index]
            )
        )
    return predictions


def _label_maps(
    net: nn.Module,
    postprocess: PostProcess,
    batch: Mapping[str, Any],
    size: tuple[int, int],
    members: list[int],
) -> list[LabelMaps]:
    """The label maps of the images `members` of a batch, each cut to `size`."""
    image, valid = batch["image"], batch["valid"]
    if len(members) < len(image) or size != tuple(image.shape[-2:]):
        is_last = image.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        image = image[members, :, : size[0], : size[1]].contiguous(memory_format=layout)
        valid = valid[members, : size[0], : size[1]].contiguous()
    return postprocess(net(image, valid), size)
