"""The graph forms give the maps of the eager forms, in torch.export and in onnxruntime."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from axialseg.datasets.generated.shape_scenes import CATEGORIES
from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.inference.export import graph_form
from axialseg.postprocess.graph import GraphMaps
from axialseg.postprocess.grouping_graph import NOWHERE, GroupingGraph
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess, find_centers

CLASSES = len(CATEGORIES)
STRIDE = 4
SLOTS = 12
SIZES = [(1, 33, 49), (3, 65, 33), (3, 81, 97)]  # batch, height, width
POSTPROCESSES = {
    "grouping": PanopticDeepLabPostProcess(CATEGORIES, 0.1, 7, 9, 40),
    "pixel-wise": PixelWisePostProcess(CATEGORIES, 0.3, 0.2, 20, 60),
    "mask-wise": MaskWisePostProcess(CATEGORIES, 0.3, 0.2, 0.1, 0.3, 1.0, 2.0, 20, 60),
}


class Case(NamedTuple):
    program: ExportedProgram
    session: onnxruntime.InferenceSession


class Alone(nn.Module):
    """A post-processing whose heads are inputs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.maps = graph_form(POSTPROCESSES[name], STRIDE)
        self.form = PanopticHeads if name.startswith("grouping") else MaskHeads

    def forward(self, heads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        height, width = ((side - 1) * STRIDE + 1 for side in heads[0].shape[-2:])
        return tuple(self.maps(self.form(*heads), (height, width)))


def blobs(generator: torch.Generator, *shape: int) -> Tensor:
    """Smooth noise, so that segments are more than single pixels."""
    *batch, height, width = shape
    coarse = torch.randn(*batch, height // 3 + 2, width // 3 + 2, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


def heads_for(name: str, batch: int, height: int, width: int) -> PanopticHeads | MaskHeads:
    generator = torch.Generator().manual_seed(height)
    h, w = (height - 1) // STRIDE + 1, (width - 1) // STRIDE + 1
    if name.startswith("grouping"):
        return PanopticHeads(
            3 * blobs(generator, batch, CATEGORIES.semantic_channels, h, w),
            blobs(generator, batch, 1, h, w).sigmoid(),
            2 * blobs(generator, batch, 2, h, w),
        )
    classes = 4 * torch.randn(batch, SLOTS, CLASSES + 1, generator=generator)
    unused = torch.zeros(batch, 1, h, w)
    return MaskHeads(5 * blobs(generator, batch, SLOTS, h, w), classes, unused, unused)


@cache
def exported(name: str, folder: Path) -> Case:
    heads = tuple(heads_for(name, 2, 41, 57))
    batch, h, w = Dim("batch", min=1, max=8), Dim("h", min=6, max=90), Dim("w", min=6, max=90)
    images = {0: batch, 2: h, 3: w}
    sizes = tuple({0: batch} if head.ndim == 3 else images for head in heads)
    program = torch.export.export(Alone(name).eval(), (heads,), dynamic_shapes=(sizes,))
    path = folder / f"{name}.onnx"
    onnx = torch.onnx.export(program, opset_version=20, dynamo=True, verbose=False)
    assert onnx is not None
    onnx.save(path)
    options = {"providers": ["CPUExecutionProvider"]}
    return Case(program, onnxruntime.InferenceSession(str(path), **options))


def in_torch(case: Case, heads: tuple[Tensor, ...]) -> GraphMaps:
    return GraphMaps(*case.program.module()(heads))


def in_onnx(case: Case, heads: tuple[Tensor, ...]) -> GraphMaps:
    # Inputs that nothing reads are not in the graph.
    feed = dict(zip((f"heads_{k}" for k in range(len(heads))), heads, strict=True))
    names = [entry.name for entry in case.session.get_inputs()]
    found = case.session.run(None, {name: feed[name].numpy() for name in names})
    return GraphMaps(*map(torch.from_numpy, found))


@pytest.mark.parametrize("name", POSTPROCESSES)
@pytest.mark.parametrize("run", [in_torch, in_onnx])
def test_graph_agrees_with_eager(
    run: Callable[[Case, tuple[Tensor, ...]], GraphMaps],
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case = exported(name, tmp_path_factory.getbasetemp())
    for size, share in [*((size, 1.0) for size in SIZES), (SIZES[0], 0.0)]:
        heads = heads_for(name, *size)
        heads = heads._make(share * head for head in heads)  # of nothing, nothing is found
        eager = POSTPROCESSES[name](heads, size[1:])
        found = run(case, tuple(heads))
        expected = torch.stack([result.panoptic for result in eager])
        assert len(expected.unique()) > 6 if share else len(expected.unique()) == 1
        assert (found.panoptic == expected).float().mean() >= 0.999
        semantic = torch.stack([result.semantic for result in eager])
        assert (found.classes == semantic).float().mean() >= 0.999
        shown = (expected == found.panoptic) & (expected != CATEGORIES.ignore_class << 16)
        pairs = [result.score_maps(result.panoptic, size[1:]) for result in eager]
        for ours, theirs in zip(found[2:], map(torch.stack, zip(*pairs, strict=True)), strict=True):
            wrong = (ours[shown] - theirs[shown]).abs() > 1e-4
            assert wrong.sum() <= 1e-3 * wrong.numel()


@pytest.mark.parametrize(("kernel", "keep"), [(7, None), (4, None), (7, 9)])
def test_centers_are_those_of_eager(kernel: int, keep: int | None) -> None:
    heatmap = blobs(torch.Generator().manual_seed(1), 3, 1, 40, 50)[:, 0].sigmoid()
    heatmap[1] = 0  # an image without any
    heatmap[2] = (8 * heatmap[2]).round() / 8  # ties
    settings = PanopticDeepLabPostProcess(CATEGORIES, 0.5, kernel, keep)
    places, peaks = GroupingGraph(settings, STRIDE)._find_centers(heatmap)
    for image, place, peak in zip(heatmap, places, peaks, strict=True):
        expected = find_centers(image, 0.5, kernel, keep)
        found = place[place < NOWHERE]
        assert torch.equal(found, expected[:, 0] * 50 + expected[:, 1])
        assert torch.equal(peak[: len(found)], image.flatten()[found])
        assert (peak[len(found) :] == 0).all()
