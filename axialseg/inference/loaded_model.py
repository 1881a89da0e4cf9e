"""A trained network with all that its user needs."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Unpack, overload

import torch
from torch import nn

from axialseg.datasets.image_classes import ImageClasses
from axialseg.errors import UserError
from axialseg.inference.explain import AttentionExplanation, explain_attention
from axialseg.inference.exported_net import ExportedNet
from axialseg.inference.fused_convolutions import inference_form
from axialseg.inference.pictures import PictureLike, as_picture
from axialseg.inference.segmentation import Segmentation
from axialseg.inference.segmenter import DTYPES, Options, Segmenter
from axialseg.panoptic.categories import Categories


@dataclass(frozen=True)
class LoadedModel:
    """A trained network: what `axialseg.load` returns.

    Attributes:
        name: of the model, as in `conf/model/`.
        net: the network with its trained weights, on the CPU, in evaluation mode. It maps an image
            ``[B, 3, H, W]`` in 0..255 to raw heads.
        categories: the classes that it was trained with.
        config: plain `model` (its `postprocess` too) and `data` (its `eval_transform` too) that
            belong to the weights.
        step: optimiser steps behind the weights; 0 if unknown.
        transform: prepares an image, uint8 ``[H, W, 3]``, as the evaluation does.
        postprocess: raw heads -> label maps; None for a classifier.
    """

    name: str
    net: nn.Module
    categories: Categories | ImageClasses
    config: dict[str, Any]
    step: int
    transform: Any
    postprocess: Any = None

    @overload
    def predict(self, images: list[Any], **options: Unpack[Options]) -> list[Segmentation]: ...

    @overload
    def predict(self, images: PictureLike, **options: Unpack[Options]) -> Segmentation: ...

    def predict(
        self, images: PictureLike | list[Any], **options: Unpack[Options]
    ) -> Segmentation | list[Segmentation]:
        """Segments an image, or each of a list.

        Args:
            images: a path, a picture of Pillow, an array uint8 ``[H, W, 3]``, a tensor uint8
                ``[3, H, W]``, or a list of such; any size.
            options: `things_only`, `min_score`, `scales`, `flip`, `tile`, `batch` and
                `precision`, see `Options`.

        Raises:
            UserError: an image cannot be read, or the model classifies whole images.
            TypeError: see `as_picture`; ValueError alike.
        """
        segmenter = self.segmenter(options)
        if isinstance(images, list):
            return list(segmenter(images))
        return next(segmenter([images]))

    def segmenter(self, options: Options, fold: bool = True) -> Segmenter:
        """What segments a stream of images, one after the other; see `predict`.

        Args:
            options: see `Options`.
            fold: whether batch norms go into the convolutions, see `inference_form`.
        """
        if not isinstance(self.categories, Categories):
            raise UserError(f"{self.name} classifies whole images; segment with another model")
        net = self.net
        if isinstance(net, ExportedNet):
            is_scaled = tuple(options.get("scales", (1.0,))) != (1.0,)
            net.refuse_views(is_scaled or any(options.get(key) for key in ("flip", "tile")))
        elif fold:
            net = self._fast(options.get("precision", "32"))
        return Segmenter(net, self.postprocess, self.transform, self.categories, options)

    def explain(
        self, image: PictureLike, pixel: tuple[int, int], layer: str | None = None
    ) -> AttentionExplanation:
        """What a pixel of an image attends to.

        Args:
            image: see `predict`.
            pixel: (y, x) in the image.
            layer: name of an axial attention layer or of a block, or a part of it; None is the
                last block of the backbone.

        Raises:
            UserError: the model has no such layer, or the pixel is none of those it sees.
        """
        return explain_attention(
            self.net, self.transform, as_picture(image).pixels, pixel, layer, self.name
        )

    def to(self, device: str | torch.device) -> "LoadedModel":
        """The same with the network on another device; the network itself is moved."""
        return replace(self, net=self.net.to(device))

    def _fast(self, precision: str) -> nn.Module:
        """The network for inference; later changes of `net` do not reach it."""
        if precision not in self._forms:
            device = next(self.net.parameters()).device
            dtype = DTYPES.get(precision, torch.float32)
            self._forms[precision] = inference_form(self.net, device.type, dtype)
        return self._forms[precision]

    @cached_property
    def _forms(self) -> dict[str, nn.Module]:
        return {}
