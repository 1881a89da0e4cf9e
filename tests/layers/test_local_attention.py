"""Attention in a window: equal to a plain loop over the papers' formulas, however it is run."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from axialseg.layers import local_attention
from axialseg.layers.local_attention import LocalAttention, PositionSensitiveLocalAttention

CHANNELS, KEYS, VALUES, HEADS = 5, 8, 12, 2
FORMS = {
    "stand-alone": (LocalAttention, {}),
    "batch norms": (
        PositionSensitiveLocalAttention,
        {"key_position": False, "value_position": False},
    ),
    "position-sensitive": (PositionSensitiveLocalAttention, {}),
}


def layer_of(form: str, **options: object) -> nn.Module:
    """In float64, its norms not at their initialisation."""
    torch.manual_seed(0)
    make, terms = FORMS[form]
    options = {"window": 3, **terms, **options}
    layer = make(CHANNELS, KEYS, VALUES, heads=HEADS, **options).double()
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    return layer


def image(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, height, width, generator=generator, dtype=torch.float64)


def vector(table: nn.Module, down: int, right: int) -> Tensor:
    """Of an offset; the middle rows of the table are offset 0."""
    reach = len(table.rows) // 2
    return torch.cat((table.rows[down + reach], table.columns[right + reach]))


def normalise(norm: nn.Module, x: Tensor, channel: int) -> Tensor:
    """x: all values of a channel."""
    mean, variance = norm.running_mean[channel], norm.running_var[channel]
    if norm.training:
        mean, variance = x.mean(), x.var(correction=0)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight[channel] + norm.bias[channel]


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """x: ``[B, C, H, W]``."""
    return torch.stack([normalise(norm, x[:, c], c) for c in range(x.shape[1])], 1)


def by_loops(layer: nn.Module, x: Tensor) -> Tensor:
    """The formulas pair by pair, without a stride; running statistics are left alone."""
    is_plain = isinstance(layer, LocalAttention)
    if is_plain:
        qkv = torch.einsum("oc,bchw->bohw", layer.qkv.weight, x)
    else:
        qkv = normalised(layer.qkv.norm, layer.qkv.conv(x))
    batch, _, height, width = qkv.shape
    q, k, v = (part.unflatten(1, (HEADS, -1)) for part in qkv.split([KEYS, KEYS, VALUES], dim=1))
    reach = layer.window // 2
    around = range(-reach, reach + 1)
    places = list(itertools.product(range(batch), range(height), range(width)))
    outputs = []
    for h in range(HEADS):
        terms: list[list[Tensor]] = []
        pairs: dict[tuple[int, ...], list[tuple[int, int, int, int, int]]] = {}
        number = 0
        for b, y, x in places:
            for down, right in itertools.product(around, around):
                at = y + down, x + right
                if not (0 <= at[0] < height and 0 <= at[1] < width):
                    continue
                query, key = q[b, h, :, y, x], k[b, h, :, at[0], at[1]]
                values = [query @ key, query @ vector(layer.query_table, down, right)]
                if not is_plain and layer.key_table is not None:
                    values.append(key @ vector(layer.key_table, down, right))
                terms.append(values)
                pairs.setdefault((b, y, x), []).append((number, *at, down, right))
                number += 1
        similarities = [torch.stack(term) for term in zip(*terms, strict=True)]
        if not is_plain:
            similarities = [
                normalise(layer.similarity_norm, term, t * HEADS + h)
                for t, term in enumerate(similarities)
            ]
        logits = sum(similarities)
        content, position = [], []
        for place in places:
            seen = pairs[place]
            weights = logits[[n for n, *_ in seen]].softmax(0)
            content.append(
                sum(w * v[place[0], h, :, s[1], s[2]] for w, s in zip(weights, seen, strict=True))
            )
            if not is_plain and layer.value_table is not None:
                vectors = [vector(layer.value_table, down, right) for *_, down, right in seen]
                position.append(weights @ torch.stack(vectors))
        outputs.append([torch.stack(term) for term in (content, position) if term])
    by_term = [torch.cat(heads, dim=1) for heads in zip(*outputs, strict=True)]  # [positions, V]
    y = torch.cat(by_term, dim=1).view(batch, height, width, -1).permute(0, 3, 1, 2)
    y = normalised(layer.norm if is_plain else layer.retrieval_norm, y)
    return y.unflatten(1, (-1, VALUES)).sum(1)


def gradients(y: Tensor, x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    """The output, and gradients of the input and of the weights."""
    weight = torch.linspace(0, 9, y.numel(), dtype=torch.float64).sin().view_as(y)
    inputs = {"x": x, **dict(layer.named_parameters())}
    found = torch.autograd.grad((y * weight).sum(), list(inputs.values()), allow_unused=True)
    known = {
        name: torch.zeros_like(inputs[name]) if g is None else g
        for name, g in zip(inputs, found, strict=True)
    }
    return {"y": y.detach(), **known}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor], limit: float = 1e-10) -> None:
    assert one.keys() == two.keys()
    for name, value in two.items():
        error = (one[name] - value).abs().max() / value.abs().max().clamp(min=1.0)
        assert error <= limit, f"{name}: {error}"


@pytest.fixture
def _many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(local_attention.CHUNK_BYTES, "cpu", 1)


@pytest.mark.usefixtures("_many_chunks")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("size", "window"), [((4, 5), 3), ((1, 3), 5)])
def test_equals_the_formulas(form: str, training: bool, size: tuple[int, int], window: int) -> None:
    layer = layer_of(form, window=window).train(training)
    x = image(*size).requires_grad_()
    expected = gradients(by_loops(layer, x), x, layer)
    assert_equal(gradients(layer(x), x, layer), expected)


@pytest.mark.parametrize("form", FORMS)
def test_chunks_change_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of(form, window=7), image(9, 6).requires_grad_()
    other = copy.deepcopy(layer)
    whole = gradients(layer(x), x, layer)
    monkeypatch.setitem(local_attention.CHUNK_BYTES, "cpu", 1)
    assert_equal(gradients(other(x), x, other), whole)
    for name, value in layer.named_buffers():
        assert torch.allclose(other.get_buffer(name), value, rtol=1e-12, atol=0), name


@pytest.mark.usefixtures("_many_chunks")
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_differences(form: str) -> None:
    layer = layer_of(form).requires_grad_()
    names, weights = zip(*layer.named_parameters(), strict=True)

    def output(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    x = image(3, 2, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(output, (x, *weights), fast_mode=True)


def test_statistics_are_those_of_the_pairs_in_sight() -> None:
    """Values far from 0, in float32: the variance must not drown in the mean."""
    layer = layer_of("position-sensitive", window=5)
    with torch.no_grad():
        layer.qkv.norm.bias.fill_(40.0)
    single = copy.deepcopy(layer).float()
    layer(image(6, 7))
    single(image(6, 7).float())
    for name, value in layer.named_buffers():
        assert torch.allclose(single.get_buffer(name).double(), value, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("striding", ["average_pool", "subsample"])
def test_stride(form: str, striding: str) -> None:
    layer = layer_of(form).eval()
    strided = layer_of(form, stride=2, striding=striding).eval()
    strided.load_state_dict(layer.state_dict())
    whole, part = layer(image(5, 4)), strided(image(5, 4))
    assert part.shape == (2, VALUES, 3, 2)
    if striding == "subsample":
        assert torch.equal(part, whole[:, :, ::2, ::2])
    else:
        assert torch.allclose(part[:, :, 0, 0], whole[:, :, :2, :2].mean((2, 3)))
        assert torch.allclose(part[:, :, 2, 0], whole[:, :, 4, :2].mean(2))  # an odd border


def test_the_backward_pass_keeps_no_copies_of_the_keys() -> None:
    layer, x = layer_of("position-sensitive", window=7), image(30, 30)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = layer(x)
    assert y.requires_grad
    channels = sum(kept.values()) / (x[:, 0].numel() * x.itemsize)
    assert channels < 100  # 831 with copies of the keys and the weights


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_autocast(form: str) -> None:
    layer = layer_of(form).float()
    reference = copy.deepcopy(layer)(image(6, 5).float())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(image(6, 5).float())
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert (y.float() - reference).abs().mean() < 0.05 * reference.abs().mean()
    assert {value.dtype for value in layer.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("form", ["stand-alone", "position-sensitive"])
def test_compiles_whole_and_channels_last(form: str) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    layer, x = layer_of(form), image(6, 5).requires_grad_()
    expected = gradients(layer(x), x, layer)
    compiled = torch.compile(copy.deepcopy(layer), backend=backend, fullgraph=True)
    assert torch.allclose(compiled(x), expected["y"], rtol=1e-10)
    assert len(graphs) == 1
    other = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert_equal(gradients(other(x), x, other), expected)


def test_an_exported_graph_takes_other_sizes() -> None:
    layer = layer_of("position-sensitive").eval()
    height, width = (torch.export.Dim(name, min=5, max=99) for name in ("height", "width"))
    with torch.no_grad():
        program = torch.export.export(
            layer, (image(6, 9),), dynamic_shapes=({2: height, 3: width},), strict=False
        )
        assert torch.allclose(program.module()(image(11, 8)), layer(image(11, 8)), rtol=1e-10)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be odd"):
        LocalAttention(4, 8, 8, heads=2, window=4)
    with pytest.raises(ValueError, match="even number of channels for each of 2 heads"):
        LocalAttention(4, 8, 6, heads=2)
    with pytest.raises(ValueError, match="subsample or average_pool"):
        LocalAttention(4, 8, 8, heads=2, striding="max_pool")
