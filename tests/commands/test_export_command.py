"""A file that is exported gives the heads and maps of the network that it was made from."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

import axialseg
from axialseg.build import build_net
from axialseg.commands import evaluate, export, predict
from axialseg.config.compose import compose_shipped
from axialseg.datasets.generated.shape_scenes import CATEGORIES
from axialseg.decoders.max_deeplab import MaskPredictor
from axialseg.errors import UserError
from axialseg.inference.export import Graph, export_graph, write_onnx
from axialseg.layers.batch_norm import BatchNorm
from axialseg.postprocess.graph import GraphMaps
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]
Run = Callable[[Tensor], list[Tensor]]

INPUTS = [(1, 2, 2), (3, 6, 4), (3, 4, 8)]  # batch, height and width in strides
LIMIT = 1e-4
MAPS = len(GraphMaps._fields)
# Few layers, because tracing takes long.
SMALL = {
    "max_deeplab_tiny": (
        "model.backbone.stage_blocks=[1,1,1,1]",
        "model.net.transformer.feed_forward_channels=16",
        "model.net.slots=16",
    ),
    "kmax_tiny": ("model.backbone.stage_blocks=[1,1,1,1]", "model.net.slots=16"),
}
POSTPROCESSES = {
    "max_deeplab_tiny": PixelWisePostProcess(CATEGORIES, 0.3, 0.2, 20, 60),
    "kmax_tiny": MaskWisePostProcess(CATEGORIES, 0.3, 0.2, 0.2, 0.3, 1.0, 2.0, 20, 60),
}


def images(stride: int) -> Iterator[Tensor]:
    """Smooth noise, which is not the same everywhere to a network."""
    generator = torch.Generator().manual_seed(0)
    for batch, rows, columns in INPUTS:
        size = (stride * rows + 1, stride * columns + 1)
        coarse = torch.rand(batch, 3, 3 * rows, 3 * columns, generator=generator)
        yield 255 * F.interpolate(coarse, size=size, mode="bilinear")


def assert_agree(run: Run, net: nn.Module, postprocess: Any, stride: int) -> None:
    """At three sizes and two batch sizes; heads relative to the largest value of each."""
    for image in images(stride):
        with torch.inference_mode():
            outputs = net(image)
        expected = [head for head in outputs if isinstance(head, Tensor)]
        found = run(image)
        assert len(found) == MAPS + len(expected)
        for theirs, ours in zip(expected, found[MAPS:], strict=True):
            assert theirs.shape == ours.shape
            assert (theirs - ours).abs().max() <= LIMIT * theirs.abs().max().clamp_min(1e-30)
        eager = postprocess(outputs, tuple(image.shape[-2:]))
        panoptic = torch.stack([result.panoptic for result in eager])
        assert len(panoptic.unique()) > 1
        assert (found[0] == panoptic).float().mean() >= 0.999


def settle(net: nn.Module, stride: int) -> None:
    """Gives masks and classes about the range that training gives them, in place."""
    heads = net.get_submodule("heads")
    assert isinstance(heads, MaskPredictor)
    last = [heads, net.get_submodule("class_feature"), net.get_submodule("mask_feature")]
    with torch.no_grad():
        heads.mask_norm.weight.fill_(4)
        heads.class_head.weight.normal_()
        for module in last:
            for norm in module.modules():
                if isinstance(norm, BatchNorm):
                    norm.momentum = 1.0  # the statistics of the one batch
            module.train()
        net(max(images(stride), key=len))
    net.eval()


def onnx_runner(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(head) for head in session.run(None, {"image": image.numpy()})]

    return run


@pytest.fixture(scope="module")
def files(seeing_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run as ONNX and for PyTorch, post-processing inside."""
    folder = tmp_path_factory.mktemp("exported")
    graphs: list[Graph] = []

    def traced_once(*arguments: Any) -> Graph:  # which takes many seconds
        if not graphs:
            graphs.append(export_graph(*arguments))
        return graphs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("axialseg.inference.export.export_graph", traced_once)
        for kind in ("onnx", "torch"):
            out = folder / f"model{export.ENDINGS[kind]}"
            lines = [f"ckpt={seeing_run}", f"format={kind}", f"out={out}", "postprocess=true"]
            export.export(lines)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.pt2"}
    return folder


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_run(kind: str, files: Path, seeing_run: Path) -> None:
    model = axialseg.load(seeing_run)
    if kind == "torch":
        extra = {"axialseg.json": ""}
        program = torch.export.load(files / "model.pt2", extra_files=extra).module()
        facts = json.loads(extra["axialseg.json"])
        run: Run = lambda image: list(program(image))  # noqa: E731
    else:
        session = onnxruntime.InferenceSession(str(files / "model.onnx"))
        facts = json.loads(session.get_modelmeta().custom_metadata_map["axialseg"])
        assert [output.name for output in session.get_outputs()] == facts["outputs"]
        run = onnx_runner(files / "model.onnx")
    assert_agree(run, model.net, model.postprocess, 16)
    assert facts["outputs"] == [*GraphMaps._fields, "semantic", "center", "offset"]
    assert facts["classes"]["classes"][0]["name"] == "disk"
    assert facts["image"]["stride"] == 16
    assert facts["limits"] == {"images": [1, 64], "sides": [33, 4097]}
    assert facts["data"]["root"] == "data"


@pytest.mark.parametrize("family", SMALL)
def test_mask_transformers(family: str, tmp_path: Path) -> None:
    stride = 16 if family == "max_deeplab_tiny" else 32
    lines = [f"model={family}", *SMALL[family]]
    torch.manual_seed(0)
    model = OmegaConf.create(compose_shipped(lines)["model"])
    net = build_net(model, CATEGORIES)
    settle(net, stride)
    postprocess = POSTPROCESSES[family]
    graph = export_graph(net, stride, postprocess)
    program = graph.program.module()
    assert_agree(lambda image: list(program(image)), net, postprocess, stride)
    write_onnx(graph, tmp_path / "model.onnx", {})
    assert_agree(onnx_runner(tmp_path / "model.onnx"), net, postprocess, stride)


def test_weights_alone(seeing_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export.export([f"ckpt={seeing_run}", "format=safetensors", f"out={out}"])
    stored = load_file(out)
    net = axialseg.load(seeing_run).net
    assert all(torch.equal(stored[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_exported_files_are_scored(
    name: str,
    files: Path,
    seeing_run: Path,
    tiny_run: list[str],
    tmp_path: Path,
    command: Command,
) -> None:
    data = [line for line in tiny_run if line.startswith(("+data", "data.root"))]
    scores = []
    for place, lines in (
        ("eager", [f"run={seeing_run}"]),
        ("exported", [f"ckpt={files / name}", "data=shapes", *data, "trust=[torch.export]"]),
    ):
        folder = tmp_path / place
        command(evaluate.main, [*lines, f"hydra.run.dir={folder}"])
        scores.append(json.loads((folder / "metrics.json").read_text()))
    eager, exported = scores
    assert exported["step"] == eager["step"] == 4
    for key in ("PQ", "PQ_stuff", "mIoU"):
        assert abs(exported[key] - eager[key]) <= 0.05
    assert eager["mIoU"] > 0


def test_exported_files_predict(
    files: Path, seeing_run: Path, tmp_path: Path, command: Command
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    eager = axialseg.load(seeing_run)
    expected = eager.predict(picture)
    model = axialseg.load(files / "model.onnx")
    found = model.predict([picture, picture], batch=2)[1]
    assert (found.panoptic // 65536 == expected.panoptic // 65536).mean() >= 0.99
    assert len(found.segments) > 0
    with pytest.raises(UserError, match="has its post-processing inside, so scales"):
        model.predict(picture, scales=[0.5, 1])
    with pytest.raises(UserError, match="takes 1 to 64 images with sides of 16 k"):
        model.net(torch.zeros(1, 3, 40, 33))
    found.plot().save(tmp_path / "a.png")
    lines = [f"ckpt={files / 'model.onnx'}", f"images={tmp_path / 'a.png'}", f"out={tmp_path}/out"]
    command(predict.main, lines)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_program_of_a_stranger_is_not_opened(files: Path) -> None:
    with pytest.raises(UserError, match=r"if it is yours, add trust=\[torch.export\]"):
        axialseg.load(files / "model.pt2")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("format=onx", "format=onx does not exist; there are: onnx"),
        ("out=model.pth", "out=model.pth must end with .onnx"),
        ("ckpt=nowhere", "the checkpoint nowhere does not exist"),
        ("ckpt=a.onnx", "a.onnx is exported already; give the run or its checkpoint"),
    ],
)
def test_mistakes(wrong: str, message: str, refusal: Refusal) -> None:
    right = ["ckpt=nowhere", "format=onnx", "out=model.onnx"]
    key = wrong.partition("=")[0]
    arguments = [line for line in right if not line.startswith(f"{key}=")] + [wrong]
    assert message in refusal(export.main, arguments)


def test_damaged_files(tmp_path: Path, refusal: Refusal) -> None:
    for name in ("a.onnx", "a.pt2"):
        (tmp_path / name).write_text("no network")
        lines = [f"ckpt={tmp_path / name}", "images=a.png", "out=out", f"images={tmp_path}"]
        (tmp_path / "b.png").write_text("no picture")
        assert "cannot be read; export it again" in refusal(predict.main, lines)
