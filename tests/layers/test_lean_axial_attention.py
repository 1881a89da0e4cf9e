"""The lean formulation of axial attention is the reference one, in every way that it is run."""

import copy
import math
from pathlib import Path

import pytest
import torch
from published_models import build_on_meta, model_config
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from axialseg.layers import chunked_attention, similarity_statistics
from axialseg.layers.axial_attention import AxialAttention, reference_attention
from axialseg.layers.axial_inputs import AxialInputs
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.lean_axial_attention import lean_attention, similarity_scales
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention

TERMS = ("content_similarity", "query_position", "key_position", "value_content", "value_position")
CHANNELS = 6


def pair(
    key_channels: int = 8, value_channels: int = 16, heads: int = 2, **options: object
) -> tuple[AxialAttention, AxialAttention]:
    """Lean and reference layer, the same weights in float64, no norm at its initialisation."""
    torch.manual_seed(0)
    options = {"axis": "width", **options}
    make = (CHANNELS, key_channels, value_channels)
    lean = AxialAttention(*make, heads=heads, **options).double()
    with torch.no_grad():
        for name, value in lean.state_dict().items():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    reference = AxialAttention(*make, heads=heads, formulation=reference_attention, **options)
    reference.double().load_state_dict(lean.state_dict())
    return lean, reference


def image(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, height, width, generator=generator, dtype=torch.float64)


def step(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and statistics of a step."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    weight = torch.linspace(0, 9, y.numel(), dtype=y.dtype).sin().view_as(y)
    (y * weight).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor], limit: float = 1e-10) -> None:
    assert one.keys() == two.keys()
    for name, value in two.items():
        error = (one[name] - value).abs().max() / value.abs().max().clamp(min=1.0)
        assert error <= limit, f"{name}: {error}"


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs take the ways of large ones too."""
    if request.param == "many blocks":
        monkeypatch.setitem(chunked_attention.CHUNK_BYTES, "cpu", 1000)
        monkeypatch.setattr(chunked_attention, "FEWEST_ROWS", 1)
        monkeypatch.setattr(similarity_statistics, "LOCAL_PAIRS", 50)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize(
    "options",
    [{}, {"span": 1}, {"span": 5}, {"span": 19}, {"max_offset": 3}, *({t: False} for t in TERMS)],
)
def test_equals_the_reference(options: dict, axis: str, training: bool) -> None:
    lean, reference = pair(axis=axis, **options)
    x = image(17, 19)
    assert_equal(step(lean.train(training), x), step(reference.train(training), x))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("span", [None, 7])
@pytest.mark.parametrize("left_out", [TERMS[:2], TERMS[1:3], TERMS[1:4], (TERMS[0], TERMS[2])])
def test_equals_the_reference_with_few_terms(left_out: tuple[str, ...], span: int | None) -> None:
    lean, reference = pair(span=span, **dict.fromkeys(left_out, False))
    assert_equal(step(lean, image(5, 23)), step(reference, image(5, 23)))


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("span", [None, 5])
@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_several_images_in_a_chunk(
    images: int, span: int | None, axis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean, reference = pair(axis=axis, span=span)
    bytes_of_an_image = lean.heads * 6 * 6 * 6 * 8
    monkeypatch.setitem(chunked_attention.CHUNK_BYTES, "cpu", images * bytes_of_an_image)
    monkeypatch.setattr(chunked_attention, "FEWEST_ROWS", 1)
    x = image(6, 6, batch=5)
    assert_equal(step(lean, x), step(reference, x))


@pytest.mark.parametrize(("span", "max_offset"), [(None, 254), (65, 254), (None, 20), (65, 20)])
@pytest.mark.parametrize("length", [1, 2, 3, 33, 64, 65, 129, 257])
def test_any_length(length: int, span: int | None, max_offset: int) -> None:
    lean, reference = pair(span=span, max_offset=max_offset, heads=1)
    x = image(2, length, batch=1)
    assert_equal(step(lean, x), step(reference, x))


@pytest.mark.parametrize(("keys", "values"), [(2, 2), (2, 64), (64, 2), (32, 64), (5, 3)])
def test_any_depth(keys: int, values: int) -> None:
    lean, reference = pair(3 * keys, 3 * values, heads=3, span=9)
    assert_equal(step(lean, image(3, 11)), step(reference, image(3, 11)))


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(1, 9), (9, 1), (7, 6)])
def test_channels_last(size: tuple[int, int], batch: int, axis: str) -> None:
    lean, reference = pair(axis=axis)
    x = image(*size, batch=batch)
    lean = lean.to(memory_format=torch.channels_last)
    actual = step(lean, x.contiguous(memory_format=torch.channels_last))
    assert_equal(actual, step(reference, x))


def test_gradient_of_the_similarities_bias_is_zero() -> None:
    lean, _ = pair()
    assert torch.equal(step(lean, image(5, 6))["similarity_norm.bias"], torch.zeros(6).double())


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training: bool) -> None:
    lean, _ = pair(span=7)
    lean.train(training)
    compiled = copy.deepcopy(lean)
    compiled.compile(backend="aot_eager", fullgraph=True)
    assert_equal(step(compiled, image(9, 11)), step(lean, image(9, 11)))


@pytest.mark.parametrize("span", [5, 13])
def test_compilers_are_told_the_truth(span: int) -> None:
    """Shapes, strides and gradients of the operator, as the library checks them."""
    qkv = torch.randn(2, 32, 7, 3, dtype=torch.float64, requires_grad=True)
    query, key, value = qkv.transpose(2, 3).split([8, 8, 16], dim=1)
    rows = [torch.randn(span, d, dtype=torch.float64, requires_grad=True) for d in (4, 4, 8)]
    scales = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    arguments = (query, key, value, *rows, span, 2, True, scales)
    torch.library.opcheck(torch.ops.axialseg.axial_attention.default, arguments)
    left, right = (x.unflatten(1, (2, 4)) for x in (query, key))
    torch.library.opcheck(torch.ops.axialseg.local_moments.default, (left, right, span // 2))


def test_bfloat16_autocast() -> None:
    """Weights are those of the rounded queries and keys: statistics and softmax are in float32."""
    lean, _ = pair(span=9)
    lean, x = lean.float(), image(7, 21).float()
    exact = step(copy.deepcopy(lean), x)
    with torch.autocast("cpu", torch.bfloat16):
        y = lean(x)
        (y * y.detach()).sum().backward()
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact["y"]).abs().mean() <= 0.02 * exact["y"].abs().mean()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lean.parameters())
    for name in ("similarity_norm.running_mean", "similarity_norm.running_var"):
        torch.testing.assert_close(lean.get_buffer(name), exact[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("span", [None, 5])
def test_synchronised_over_ranks(span: int | None, tmp_path: Path) -> None:
    """Two ranks with an image each do what one with both does."""
    images = image(6, 9)
    images[1] += 5  # the ranks' statistics differ
    lean, reference = pair(span=span)
    expected = step(reference, images)
    torch.save((lean, images), tmp_path / "job.pt")
    start_processes(synchronised_step, (str(tmp_path),), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in expected:
        values = [rank[name] for rank in ranks]
        if name in ("x", "y"):
            actual = torch.cat(values)
        else:
            actual = values[0] if "running" in name else values[0] + values[1]
            if "running" in name:
                torch.testing.assert_close(values[1], actual, rtol=0, atol=0)
        torch.testing.assert_close(actual, expected[name], rtol=1e-10, atol=1e-10)
    assert ranks[0]["all_reduces"] == ranks[1]["all_reduces"] == 1


def synchronised_step(rank: int, folder: str) -> None:
    """What one of two ranks does; the loss weighs each image as `step` does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    layer, images = torch.load(f"{folder}/job.pt", weights_only=False)
    x = images[rank : rank + 1].clone().requires_grad_()
    inputs, calls = layer._inputs(x), []
    all_reduce = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda *args: calls.append(args) or all_reduce(*args)
    similarity_scales(inputs, copy.deepcopy(layer.similarity_norm))
    torch.distributed.all_reduce = all_reduce
    layer.load_state_dict(torch.load(f"{folder}/job.pt", weights_only=False)[0].state_dict())

    y = layer(x)
    weight = torch.linspace(0, 9, 2 * y.numel(), dtype=y.dtype).sin().view(2, *y.shape[1:])
    (y * weight[rank]).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    result = {"y": y.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}
    torch.save(result | {"all_reduces": len(calls)}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_configuration_chooses_the_formulation() -> None:
    for name, function in (("reference", reference_attention), ("lean", lean_attention)):
        config = model_config(("model=axial_deeplab_tiny", f"model/attention={name}"))
        layers = [m for m in build_on_meta(config, 19).modules() if isinstance(m, AxialAttention)]
        assert layers
        assert all(layer.formulation.func is function for layer in layers)


@pytest.mark.parametrize("span", [None, 65])
@pytest.mark.parametrize("ratio", [0.0, 20.0, 200.0])
def test_float32_scales_are_as_exact_as_the_textbooks(ratio: float, span: int | None) -> None:
    """Where the mean of the logits is many standard deviations."""
    torch.manual_seed(0)
    heads, depth, sequences, length = 2, 8, 12, 129
    shape = (1, heads, depth, sequences, length)
    shift = 1.4 * ratio * torch.randn(1, heads, depth, 1, 1).sign() / depth**0.5
    query, key = ((torch.randn(shape) + shift).flatten(1, 2) for _ in range(2))
    rows = [torch.randn(2 * length - 1 if span is None else span, depth) for _ in range(2)]

    def run(formulation: str, dtype: torch.dtype) -> list[Tensor]:
        """Scales, statistics and gradients."""
        norm = BatchNorm(3 * heads, momentum=1.0).to(dtype)
        tensors = [x.to(dtype).requires_grad_() for x in (query, key, *rows)]
        if formulation == "lean":
            query_key, tables = tensors[:2], tensors[2:]
            inputs = AxialInputs(*query_key, None, *tables, None, len(rows[0]), heads, True)
            scales = similarity_scales(inputs, norm)
        else:
            maps = textbook_maps(*tensors, heads)
            offset = torch.arange(length) - torch.arange(length)[:, None]
            mask = offset.abs() <= len(rows[0]) // 2
            norm(maps, None if span is None else mask)
            values = maps[..., mask]
            variance = values.var((0, 2), correction=0)
            scales = (norm.weight * torch.rsqrt(variance + norm.eps)).view(3, heads)
        weight = torch.arange(1.0, 1 + scales.numel()).view_as(scales)
        gradients = torch.autograd.grad((scales * weight).sum(), tensors)
        return [scales.detach(), norm.running_mean, norm.running_var, *gradients]

    truth = run("textbook", torch.float64)
    textbook, lean = run("textbook", torch.float32), run("lean", torch.float32)
    for exact, theirs, ours in zip(truth, textbook, lean, strict=True):
        scale = exact.abs().max()
        limit = max(float((theirs - exact).abs().max() / scale), 1e-6)
        assert float((ours - exact).abs().max() / scale) <= limit


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ratio", [0.0, 2.0, 20.0, 200.0])
def test_float32_is_as_exact_as_the_textbook(ratio: float, batch: int) -> None:
    """Outputs, every gradient and statistic; the mean of q . k is some standard deviations.

    Single errors are luck, so theirs and ours are compared on average over inputs.
    """
    excess: dict[str, list[float]] = {}
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        shift = 1.4 * ratio / 8**0.5 * torch.randn(32, generator=generator).sign().repeat(2)
        x = torch.randn(batch, 64, 65, 8, generator=generator, dtype=torch.float64)

        def result(kind: type[AxialAttention], dtype: torch.dtype) -> dict[str, Tensor]:
            torch.manual_seed(0)
            layer = kind(64, 32, 64, "height", heads=4)
            with torch.no_grad():
                layer.qkv.norm.bias[:64] = shift  # noqa: B023
            layer.similarity_norm.momentum = 1.0
            return step(layer.to(dtype), x.to(dtype))  # noqa: B023

        truth = result(TextbookAxialAttention, torch.float64)
        textbook = result(TextbookAxialAttention, torch.float32)
        ours = result(AxialAttention, torch.float32)
        for name, exact in truth.items():
            if name == "similarity_norm.bias":
                continue  # its gradient is 0
            size = exact
            if name == "similarity_norm.running_mean":
                size = truth["similarity_norm.running_var"].sqrt()  # the mean itself may be near 0
            errors = [float((run[name] - exact).norm() / size.norm()) for run in (ours, textbook)]
            # Half a rounding of float32: no result can be expected to be nearer.
            one, other = (math.log(max(error, 2**-24)) for error in errors)
            excess.setdefault(name, []).append(one - other)
    for name, logarithms in excess.items():
        assert math.exp(sum(logarithms) / len(logarithms)) <= 1.2, name


def textbook_maps(query: Tensor, key: Tensor, *rows_and_heads: object) -> Tensor:
    """All similarities, ``[S, 3 h, L, L]``."""
    query_rows, key_rows, heads = rows_and_heads
    q, k = (x[0].unflatten(0, (heads, -1)) for x in (query, key))
    length, reach = q.shape[-1], len(query_rows) // 2
    offset = torch.arange(length) - torch.arange(length)[:, None]
    row = offset.clamp(-reach, reach) + reach
    return torch.cat(
        [
            torch.einsum("hdsi,hdsj->shij", q, k),
            torch.einsum("hdsi,ijd->shij", q, query_rows[row]),
            torch.einsum("hdsj,ijd->shij", k, key_rows[row]),
        ],
        dim=1,
    )
