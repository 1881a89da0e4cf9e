"""The decoder and the prediction heads of Panoptic-DeepLab.

Source: Cheng et al. 2020, "Panoptic-DeepLab" (arXiv 1911.10194), sec. 3.1; deeplab2
``model/decoder/panoptic_deeplab.py``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from axialseg.layers.activation import Activation
from axialseg.layers.convolution import ConvNormAct, SeparableConvNormAct
from axialseg.layers.full_precision import full_precision
from axialseg.layers.initialization import truncated_normal_
from axialseg.layers.resize import resize_bilinear, resize_offsets


class PanopticHeads(NamedTuple):
    """The raw heads of Panoptic-DeepLab, at stride 4 or resized to the image.

    Attributes:
        semantic: class logits ``[B, semantic_channels, h, w]``.
        center: centre heat-map ``[B, 1, h, w]``, no activation, about 0..1.
        offset: ``[B, 2, h, w]``, (dy, dx) from a pixel to its centre, in pixels of this resolution.
    """

    semantic: Tensor
    center: Tensor
    offset: Tensor

    def resized(self, size: tuple[int, int]) -> "PanopticHeads":
        """The heads at another resolution (H, W), aligned corners, offsets in its pixels."""
        return PanopticHeads(
            resize_bilinear(self.semantic, size),
            resize_bilinear(self.center, size),
            resize_offsets(self.offset, size),
        )


class ContextFactory(Protocol):
    """Makes a context module with `out_channels` for a number of input channels."""

    def __call__(self, in_channels: int) -> nn.Module:
        """The module maps ``[B, in_channels, h, w]`` to ``[B, out_channels, h, w]``."""
        ...


LOW_LEVEL = ("res3", "res2")  # the features that are fused, deepest first


class PanopticDeepLabDecoder(nn.Module):
    """Upsamples the deepest feature to stride 4, fusing res3 and res2 on the way.

    Args:
        feature_channels: channels of the backbone's features by name.
        context: makes the module in front, see ``decoders/context.py``.
        channels: width of the fused features and of the output.
        projections: widths that res3 and res2 are projected to.
        activation: of each convolution; the context has its own.
    """

    def __init__(
        self,
        feature_channels: Mapping[str, int],
        context: ContextFactory,
        channels: int = 256,
        projections: Sequence[int] = (64, 32),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.context = context(feature_channels["res5"])
        self.projections = nn.ModuleList()
        self.fusions = nn.ModuleList()
        width = cast(int, self.context.out_channels)
        for name, projected in zip(LOW_LEVEL, projections, strict=True):
            self.projections.append(
                ConvNormAct(feature_channels[name], projected, activation=activation)
            )
            self.fusions.append(SeparableConvNormAct(width + projected, channels, 5, activation))
            width = channels

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """features: the backbone's, activated -> ``[B, channels, h, w]`` at the stride of res2."""
        x = self.context(features["res5"])
        for name, projection, fusion in zip(LOW_LEVEL, self.projections, self.fusions, strict=True):
            low = projection(features[name])
            x = resize_bilinear(x, (low.shape[-2], low.shape[-1]))
            x = fusion(torch.cat([x, low], dim=1))
        return x


class PredictionHead(nn.Module):
    """5x5 separable convolution, then a 1x1 convolution with bias.

    Args:
        in_channels: channels of the decoder's output.
        channels: width between the two convolutions.
        out_channels: predicted channels.
        activation: of the separable convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.fuse = SeparableConvNormAct(in_channels, channels, 5, activation)
        self.predict = nn.Conv2d(channels, out_channels, 1)
        truncated_normal_(self.predict.weight, 0.01)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, h, w]`` -> ``[B, C_out, h, w]``, no activation."""
        x = self.fuse(x)
        if self.training:
            return self.predict(x)
        # In float32 under autocast too: in bfloat16 neighbours in the heat-map are often
        # equal; all of them would be centres, and things would fall apart.
        with full_precision(x):
            return self.predict(x.to(self.predict.weight.dtype))
