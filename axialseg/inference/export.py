"""Networks for other runtimes: one graph for all batches and sizes, by torch.export and ONNX.

The graph maps an image, float ``[B, 3, H, W]`` in 0..255, RGB, to the raw heads, and if that is
wanted to the label maps of the post-processing too. H and W are ``k * stride + 1``; a smaller
picture is put at the top left, the rest is 127.5 (which becomes 0). Batch norms are folded, and
axial attention is in its textbook form: elementary operations only.
"""

import copy
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from axialseg.inference.attention_maps import axial_layers
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention
from axialseg.postprocess.graph import GraphMaps
from axialseg.postprocess.grouping_graph import GroupingGraph
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess
from axialseg.postprocess.slot_graph import MaskWiseGraph, PixelWiseGraph

PostProcess = PanopticDeepLabPostProcess | PixelWisePostProcess | MaskWisePostProcess

MOST_IMAGES, LONGEST_SIDE = 64, 4097  # of what a graph takes
OPSET = 20
FACTS = "axialseg"  # metadata entry of an ONNX file; extra file of a .pt2 file, with .json


class Graph(NamedTuple):
    """A network as one graph.

    Attributes:
        program: of torch.export.
        outputs: their names, in order.
    """

    program: ExportedProgram
    outputs: tuple[str, ...]


def export_graph(net: nn.Module, stride: int, postprocess: PostProcess | None = None) -> Graph:
    """Traces a network.

    Args:
        net: in evaluation mode, on the CPU; it is left as it is.
        stride: sides of images are multiples of it and one more.
        postprocess: of the network. With it the graph has the label maps as its first outputs, see
            `GraphMaps`; None: the raw heads alone.
    """
    plain = _Outputs(_elementary(net)).eval()
    sample = torch.zeros(2, 3, 2 * stride + 1, 3 * stride + 1)
    with torch.inference_mode():
        heads = plain.net(sample)
    if postprocess is not None:
        plain.maps = graph_form(postprocess, _head_stride(sample, heads))
    names = (*(GraphMaps._fields if postprocess is not None else ()), *_names(heads))
    longest = (LONGEST_SIDE - 1) // stride
    height, width = (Dim(name, min=2, max=longest) for name in ("rows", "columns"))
    sizes = {
        0: Dim("batch", min=1, max=MOST_IMAGES),
        2: stride * height + 1,
        3: stride * width + 1,
    }
    program = torch.export.export(plain, (sample,), dynamic_shapes=(sizes,), strict=False)
    return Graph(program, names)


def graph_form(postprocess: PostProcess, stride: int) -> nn.Module:
    """The graph form of a post-processing: raw heads and size (H, W) -> `GraphMaps`.

    Args:
        postprocess: of the network.
        stride: pixels of the image from one position of the heads to the next.
    """
    if isinstance(postprocess, PanopticDeepLabPostProcess):
        return GroupingGraph(postprocess, stride)
    if isinstance(postprocess, PixelWisePostProcess):
        return PixelWiseGraph(postprocess, stride)
    return MaskWiseGraph(postprocess, stride)


def write_torch(graph: Graph, path: Path, facts: dict[str, Any]) -> None:
    """Writes a `.pt2` file for `torch.export.load`; an extra file has the facts."""
    torch.export.save(graph.program, path, extra_files={f"{FACTS}.json": json.dumps(facts)})


def write_onnx(graph: Graph, path: Path, facts: dict[str, Any]) -> None:
    """Writes an ONNX file; its metadata have the facts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own use of torch
        program = torch.onnx.export(
            graph.program,
            input_names=["image"],
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[FACTS] = json.dumps(facts)
    program.save(path)


class _Outputs(nn.Module):
    """A network whose result is a plain tuple, as runtimes have it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.maps: nn.Module | None = None  # from the heads and the size, see `graph_form`

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The label maps, if they are wanted, and all heads that there are.

        Args:
            image: ``[B, 3, H, W]``.
        """
        heads = self.net(image)
        maps = () if self.maps is None else tuple(self.maps(heads, image.shape[-2:]))
        if isinstance(heads, Tensor):
            return (*maps, heads)
        return (*maps, *(head for head in heads if isinstance(head, Tensor)))


def _names(heads: Any) -> tuple[str, ...]:
    if isinstance(heads, Tensor):
        return ("logits",)
    return tuple(name for name, head in heads._asdict().items() if isinstance(head, Tensor))


def _head_stride(image: Tensor, heads: Any) -> int:
    """Pixels of the image from one position of the heads to the next."""
    return (image.shape[-2] - 1) // (heads[0].shape[-2] - 1)


def _elementary(net: nn.Module) -> nn.Module:
    """A folded copy whose attention has elementary operations only."""
    plain = fold_batch_norms(copy.deepcopy(net))
    for layer in axial_layers(plain).values():
        # The textbook form has the same weights and no state of its own.
        layer.__class__ = TextbookAxialAttention
    return plain
