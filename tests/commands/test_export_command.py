import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import axialseg
from axialseg.commands import export
from axialseg.inference.export import Graph, export_graph, write_onnx

Refusal = Callable[[Callable[[], None], list[str]], str]

INPUTS = [(1, 33, 33), (3, 97, 65), (3, 65, 129)]  # batch, height, width
LIMIT = 1e-4


def heads_of(net: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [head for head in net(image) if isinstance(head, Tensor)]


def assert_agree(run: Callable[[Tensor], list[Tensor]], net: nn.Module) -> None:
    """At three sizes and two batch sizes, relative to the largest value of each head."""
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in INPUTS:
        shape = (batch, 3, height, width)
        image = torch.randint(0, 256, shape, generator=generator).float()
        expected, found = heads_of(net, image), run(image)
        assert len(expected) == len(found) > 0
        for theirs, ours in zip(expected, found, strict=True):
            assert theirs.shape == ours.shape
            assert (theirs - ours).abs().max() <= LIMIT * theirs.abs().max().clamp_min(1e-30)


def onnx_runner(path: Path) -> Callable[[Tensor], list[Tensor]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(head) for head in session.run(None, {"image": image.numpy()})]

    return run


@pytest.mark.parametrize("kind", ["onnx", "torch", "safetensors"])
def test_a_run(kind: str, trained_run: Path, tmp_path: Path) -> None:
    model = axialseg.load(trained_run)
    out = tmp_path / f"model{export.ENDINGS[kind]}"
    export.export([f"ckpt={trained_run}", f"format={kind}", f"out={out}"])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if kind == "safetensors":
        stored = load_file(out)
        assert all(torch.equal(stored[n], x) for n, x in model.net.state_dict().items())
        return
    if kind == "torch":
        extra = {"axialseg.json": ""}
        program = torch.export.load(out, extra_files=extra).module()
        facts = json.loads(extra["axialseg.json"])
        assert_agree(lambda image: list(program(image)), model.net)
    else:
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        facts = json.loads(session.get_modelmeta().custom_metadata_map["axialseg"])
        assert [output.name for output in session.get_outputs()] == facts["heads"]
        assert_agree(onnx_runner(out), model.net)
    assert facts["heads"] == ["semantic", "center", "offset"]
    assert facts["classes"]["classes"][0]["name"] == "disk"
    assert facts["image"]["stride"] == 16


def test_max_deeplab(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = axialseg.create_model("max_deeplab_tiny", 7).eval()
    graph: Graph = export_graph(net, 16)
    assert graph.heads[:2] == ("mask_logits", "class_logits")
    program = graph.program.module()
    assert_agree(lambda image: list(program(image)), net)
    write_onnx(graph, tmp_path / "model.onnx", {})
    assert_agree(onnx_runner(tmp_path / "model.onnx"), net)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("format=onx", "format=onx does not exist; there are: onnx"),
        ("out=model.pth", "out=model.pth must end with .onnx"),
        ("ckpt=nowhere", "the checkpoint nowhere does not exist"),
    ],
)
def test_mistakes(wrong: str, message: str, refusal: Refusal) -> None:
    right = ["ckpt=nowhere", "format=onnx", "out=model.onnx"]
    key = wrong.partition("=")[0]
    arguments = [line for line in right if not line.startswith(f"{key}=")] + [wrong]
    assert message in refusal(export.main, arguments)
