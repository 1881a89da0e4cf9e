"""Compiled, in bfloat16, channels last, with activations computed again: the same network."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.stem import AxialStem, ConvStem


def network(span: int | None = 5, **arguments: object) -> ResidualNetwork:
    """Axial attention in two stages, convolutions in two."""
    torch.manual_seed(0)
    default = {
        "stem": ConvStem(8, 3),
        "stage_blocks": [1, 1, 1, 1],
        "stage_channels": [16, 16, 32, 32],
        "conv_blocks": ["bottleneck"] * 4,
        "attention": partial(AxialAttention, heads=2, span=span, max_offset=20),
        "attention_stages": [2, 4],
        "max_pool": True,
    }
    net = ResidualNetwork(**(default | arguments))
    for name, parameter in net.named_parameters():
        if name.endswith("norm.weight"):  # residual branches start with 0
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(2, 3, 50, 41, generator=generator, dtype=dtype)


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Features, gradients and statistics of a training step."""
    features = net(x)
    sum(
        (f.float() if f.dtype == torch.bfloat16 else f).square().mean() for f in features.values()
    ).backward()
    return {
        **{name: value.detach().clone() for name, value in features.items()},
        **{name: p.grad.clone() for name, p in net.named_parameters()},
        **{name: value.clone() for name, value in net.named_buffers()},
    }


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((actual[name] - value).abs().max()) <= limit * scale, name


@pytest.mark.parametrize(
    "options", [{}, {"drop_path_keep": 0.5}, {"axial_striding": "average_pool"}]
)
def test_activation_checkpointing_changes_no_number(options: dict) -> None:
    net = network(**options).double()
    checkpointed = network(activation_checkpointing=True, **options).double()
    checkpointed.load_state_dict(net.state_dict())
    torch.manual_seed(3)
    expected = step(net, image(torch.float64))
    torch.manual_seed(3)
    actual = step(checkpointed, image(torch.float64))
    assert_same(actual, expected, 1e-6)
    for name, value in net.named_buffers():
        assert torch.equal(checkpointed.get_buffer(name), value), name  # moved once
    # The norms still learn afterwards.
    before = {name: value.clone() for name, value in checkpointed.named_buffers()}
    step(checkpointed, image(torch.float64))
    assert all(not torch.equal(before[n], v) for n, v in checkpointed.named_buffers())


def test_activation_checkpointing_keeps_less() -> None:
    def kept(net: nn.Module) -> int:
        storages: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            features = net(image())
        assert features["res5"].requires_grad
        return sum(storages.values())

    options = {"stage_blocks": [2, 2, 2, 2]}
    assert kept(network(activation_checkpointing=True, **options)) < 0.4 * kept(network(**options))


@pytest.mark.parametrize("span", [None, 5])
def test_bfloat16_autocast(span: int | None) -> None:
    net = network(span)
    reference = step(copy.deepcopy(net), image())
    with torch.autocast("cpu", torch.bfloat16):
        result = step(net, image())
    assert all(value.isfinite().all() for value in result.values())
    for name in ("res1", "res2"):
        difference = (result[name].float() - reference[name]).abs().mean()
        assert difference <= 0.05 * reference[name].abs().mean(), name
    # Weights and statistics stay in float32.
    assert {value.dtype for name, value in net.state_dict().items()} == {torch.float32}


@pytest.mark.parametrize("span", [None, 5])
def test_channels_last(span: int | None) -> None:
    net = network(span).double()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    expected = step(net, image(torch.float64))
    x = image(torch.float64).contiguous(memory_format=torch.channels_last)
    assert_same(step(other, x), expected, 1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"span": None},
        {"stem": AxialStem(8, partial(AxialAttention, heads=2, span=3, max_offset=20))},
    ],
)
def test_compiles_whole(options: dict) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    net = network(**options)
    compiled = torch.compile(copy.deepcopy(net), backend=backend, fullgraph=True)
    expected = step(net, image())
    features = compiled(image())
    assert len(graphs) == 1
    assert_same(
        {k: v.detach() for k, v in features.items()}, {k: expected[k] for k in features}, 1e-5
    )


def test_compiles_with_activation_checkpointing() -> None:
    net = network(activation_checkpointing=True)
    compiled = copy.deepcopy(net)
    compiled.compile(backend="eager")
    assert_same(step(compiled, image()), step(net, image()), 1e-4)
