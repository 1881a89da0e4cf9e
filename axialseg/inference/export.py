"""Networks for other runtimes: one graph for all batches and sizes, by torch.export and ONNX.

The graph maps an image, float ``[B, 3, H, W]`` in 0..255, RGB, to the raw heads. H and W are
``k * stride + 1``; a smaller picture is put at the top left, the rest is 127.5 (which becomes 0).
Batch norms are folded, and axial attention is in its textbook form: elementary operations only.
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

MOST_IMAGES, LONGEST_SIDE = 64, 4097  # of what a graph takes
OPSET = 20


class Graph(NamedTuple):
    """A network as one graph.

    Attributes:
        program: of torch.export.
        heads: names of the outputs, in order.
    """

    program: ExportedProgram
    heads: tuple[str, ...]


def export_graph(net: nn.Module, stride: int) -> Graph:
    """Traces a network.

    Args:
        net: in evaluation mode, on the CPU; it is left as it is.
        stride: sides of images are multiples of it and one more.
    """
    plain = _Heads(_elementary(net)).eval()
    sample = torch.zeros(2, 3, 2 * stride + 1, 3 * stride + 1)
    with torch.inference_mode():
        names = plain.names(sample)
    longest = (LONGEST_SIDE - 1) // stride
    height, width = (Dim(name, min=2, max=longest) for name in ("rows", "columns"))
    sizes = {
        0: Dim("batch", min=1, max=MOST_IMAGES),
        2: stride * height + 1,
        3: stride * width + 1,
    }
    program = torch.export.export(plain, (sample,), dynamic_shapes=(sizes,), strict=False)
    return Graph(program, names)


def write_torch(graph: Graph, path: Path, facts: dict[str, Any]) -> None:
    """Writes a `.pt2` file for `torch.export.load`; extra file `axialseg.json` has the facts."""
    torch.export.save(graph.program, path, extra_files={"axialseg.json": json.dumps(facts)})


def write_onnx(graph: Graph, path: Path, facts: dict[str, Any]) -> None:
    """Writes an ONNX file; the facts are the entry `axialseg` of its metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own use of torch
        program = torch.onnx.export(
            graph.program,
            input_names=["image"],
            output_names=list(graph.heads),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["axialseg"] = json.dumps(facts)
    program.save(path)


class _Heads(nn.Module):
    """A network whose result is a plain tuple, as runtimes have it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The heads that are not None; image ``[B, 3, H, W]``."""
        outputs = self.net(image)
        if isinstance(outputs, Tensor):
            return (outputs,)
        return tuple(head for head in outputs if isinstance(head, Tensor))

    def names(self, image: Tensor) -> tuple[str, ...]:
        """Their names, from a run."""
        outputs = self.net(image)
        if isinstance(outputs, Tensor):
            return ("logits",)
        fields = outputs._asdict().items()
        return tuple(name for name, head in fields if isinstance(head, Tensor))


def _elementary(net: nn.Module) -> nn.Module:
    """A folded copy whose attention has elementary operations only."""
    plain = fold_batch_norms(copy.deepcopy(net))
    for layer in axial_layers(plain).values():
        # The textbook form has the same weights and no state of its own.
        layer.__class__ = TextbookAxialAttention
    return plain
