"""What a network costs: its parameters, and its multiply-adds for an image size.

Nothing is computed: the network may lie on the meta device. A multiply-add is a multiplication with
its addition, in a convolution, a linear layer, an attention product or a product of pixels and
slots; norms, activations and resizing are not counted. Attention counts as its textbook
form whatever computes it: K products for each similarity term and V for each retrieved term, for
each pair of a query and a key position; a span of m makes m pairs of a query position and a window
of k x k makes k * k, those beyond the border included (Wang et al. 2020, "Axial-DeepLab", counts
so). A dilated convolution counts as TensorFlow computes it, on a feature padded to a multiple of
the dilation, so that the numbers are the authors'; with ASPP's large rates this adds up to 17 % to
a ResNet-50.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from axialseg.backbones.backbone import records_by_stride
from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.decoders.kmeans_transformer import KMeansTransformer
from axialseg.decoders.max_deeplab import MaskPredictor
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.dual_path_transformer import NormalizedAttention
from axialseg.layers.local_attention import WindowAttention
from axialseg.layers.stem import AttentionStem

COUNTED = (
    nn.Conv2d,
    nn.Linear,
    AxialAttention,
    AttentionStem,
    NormalizedAttention,
    WindowAttention,
    MaskPredictor,
    KMeansTransformer,
)


class PartCost(NamedTuple):
    """One part of a network, or a whole one.

    Attributes:
        name: of the module; ``total`` for the whole.
        parameters: what can be trained, frozen or not.
        non_trainable_parameters: running statistics of the batch norms.
        multiply_adds: for one image.
        is_run: False for what the network holds but its outputs do not need.
    """

    name: str
    parameters: int
    non_trainable_parameters: int
    multiply_adds: int
    is_run: bool


def part_costs(net: nn.Module, size: tuple[int, int]) -> list[PartCost]:
    """Counts each part of a network.

    Args:
        net: network with a backbone as its child `backbone`, on any device.
        size: (height, width) of the image.

    Returns:
        The stem, each stage and the stacked decoder of the backbone, the decoders and the heads; of
        MaX-DeepLab also the transformers and the memory.
    """
    device = next(net.parameters()).device
    image = torch.zeros(1, 3, *size, device=device)
    with _counting(net) as run:
        net(image)
    with _counting(net) as beyond:
        backbone = net.backbone
        if isinstance(backbone, ResidualNetwork) and backbone.stacked_decoder is not None:
            backbone.stacked_decoder(records_by_stride(backbone(image), backbone.strides))
    costs = []
    for name, module in _parts(net):
        is_run = any(_is_inside(leaf, name) for leaf in run)
        costs.append(
            PartCost(
                name,
                sum(p.numel() for p in module.parameters()),
                sum(b.numel() for b in module.buffers()),
                sum(n for leaf, n in (run if is_run else beyond).items() if _is_inside(leaf, name)),
                is_run,
            )
        )
    for name, parameter in net.named_parameters(recurse=False):
        costs.append(PartCost(name, parameter.numel(), 0, 0, is_run=True))
    return costs


def total_cost(parts: list[PartCost]) -> PartCost:
    """The sum, parts that are not run included: the authors' counts hold them too."""
    return PartCost(
        "total",
        sum(part.parameters for part in parts),
        sum(part.non_trainable_parameters for part in parts),
        sum(part.multiply_adds for part in parts),
        all(part.is_run for part in parts),
    )


def _parts(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that make up the table."""
    for name, child in net.named_children():
        if isinstance(child, ResidualNetwork) or (prefix and isinstance(child, nn.ModuleDict)):
            yield from _parts(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:  # what has weights: not a dropout
            yield f"{prefix}{name}", child


def _is_inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@contextmanager
def _counting(net: nn.Module) -> Iterator[Mapping[str, int]]:
    """Within the block, the mapping collects multiply-adds by the name of the layer that runs."""
    counts: Counter[str] = Counter()
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, COUNTED):

            def count(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: Any, name: str = name
            ) -> None:
                counts[name] += _multiply_adds(layer, inputs, output)

            handles.append(module.register_forward_hook(count))
    try:
        with torch.no_grad():
            yield counts
    finally:
        for handle in handles:
            handle.remove()


def _multiply_adds(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> int:
    """Of one layer, without the layers inside it.

    Args:
        layer: one of `COUNTED`.
        inputs: of its `forward`.
        output: of its `forward`.
    """
    if isinstance(layer, KMeansTransformer):  # values times the pixels that a slot has
        return output.heads.mask_logits.numel() * layer.qkv_channels[2]
    if isinstance(layer, MaskPredictor):
        return output.mask_logits.numel() * output.pixel_embedding.shape[1]
    if isinstance(layer, NormalizedAttention):
        query, key, value = inputs  # each [B, h, d, positions]
        return query.shape[-1] * (key.numel() + value.numel())
    x, y = inputs[0], output
    if isinstance(layer, nn.Linear):
        return y.numel() * layer.in_features
    if isinstance(layer, nn.Conv2d):
        # Padded to a multiple of the dilation, it is a plain convolution of interleaved images.
        height, width = (-(-n // d) * d for n, d in zip(y.shape[-2:], layer.dilation, strict=True))
        return y.shape[0] * height * width * layer.weight.numel()
    if isinstance(layer, AttentionStem):  # values by each of their matrices, and 16 x 16 pairs
        area = layer.stride**2
        return y.numel() * area * (3 * len(layer.values) + 2 * area)
    if isinstance(layer, WindowAttention):
        positions = x.shape[0] * x.shape[-2] * x.shape[-1]
        return positions * layer.window**2 * layer.pair_products
    assert isinstance(layer, AxialAttention)
    length = x.shape[-2] if layer.axis == "height" else x.shape[-1]
    positions = x.shape[0] * x.shape[-2] * x.shape[-1]
    pairs = positions * min(layer.span or length, length)
    similarities = layer.similarity_norm.weight.numel() // layer.heads
    # The retrieval's norm has a channel for each value channel of each retrieved term.
    return pairs * (similarities * layer.key_channels + layer.retrieval_norm.weight.numel())
