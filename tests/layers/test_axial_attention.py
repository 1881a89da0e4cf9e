"""Axial attention with a span: equal to a plain loop, and to global attention where it must be."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from axialseg.layers.axial_attention import (
    AxialAttention,
    AxialAttention2d,
    reference_attention,
)

HEADS, KEYS, VALUES = 2, 4, 8


def attention(span: int | None, axis: str = "width", **options: object) -> AxialAttention:
    """A layer whose norms are not at their initialisation, in float64."""
    torch.manual_seed(0)
    layer = AxialAttention(3, KEYS, VALUES, axis, heads=HEADS, span=span, **options).double()
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    return layer


def image(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def step(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs in training, gradients of input and weights, statistics after the step."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    (y * weight).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        **{name: p.grad for name, p in layer.named_parameters()},
        **{name: b.clone() for name, b in layer.named_buffers()},
    }


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor], limit: float) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        scale = max(1.0, float(two[name].abs().max()))
        assert float((value - two[name]).abs().max()) <= limit * scale, name


def by_loops(layer: AxialAttention, x: Tensor) -> Tensor:
    """The paper's equations position by position, along the width, in the layer's own mode.

    Differentiable; the running statistics are left alone.
    """
    qkv = (
        layer.qkv.norm(layer.qkv.conv(x))
        if not layer.training
        else batch_norm(layer.qkv.norm, layer.qkv.conv(x))
    )
    batch, _, height, length = qkv.shape
    reach = (layer.span - 1) // 2
    middle, depth, value_depth = layer.max_offset, KEYS // HEADS, VALUES // HEADS
    pairs = [
        (b, h, i, y, j)
        for b in range(batch)
        for h in range(HEADS)
        for y in range(height)
        for i in range(length)
        for j in range(max(i - reach, 0), min(i + reach, length - 1) + 1)
    ]
    terms: dict[tuple[int, int], list[Tensor]] = {}
    for b, h, i, y, j in pairs:
        q = qkv[b, h * depth : (h + 1) * depth, y, i]
        k = qkv[b, KEYS + h * depth : KEYS + (h + 1) * depth, y, j]
        row = middle + max(-middle, min(middle, j - i))
        values = (q @ k, q @ layer.query_table[row], k @ layer.key_table[row])
        for t, value in enumerate(values):
            terms.setdefault((t, h), []).append(value)
    logits: dict[int, Tensor] = {}
    for h in range(HEADS):
        logits[h] = sum(
            normalise(
                layer.similarity_norm, torch.stack(terms[t, h]), t * HEADS + h, layer.training
            )
            for t in range(3)
        )
    content = [
        [[[None] * length for _ in range(height)] for _ in range(HEADS)] for _ in range(batch)
    ]
    position = copy.deepcopy(content)
    for h in range(HEADS):
        own = [pair for pair in pairs if pair[1] == h]
        for b in range(batch):
            for y in range(height):
                for i in range(length):
                    seen = [n for n, p in enumerate(own) if p[0] == b and p[2] == i and p[3] == y]
                    weights = logits[h][seen].softmax(0)
                    first = 2 * KEYS + h * value_depth
                    columns = [own[n][4] for n in seen]
                    v = qkv[b, first : first + value_depth, y, columns]
                    rows = [middle + max(-middle, min(middle, j - i)) for j in columns]
                    content[b][h][y][i] = v @ weights
                    position[b][h][y][i] = weights @ layer.value_table[rows]
    total = torch.zeros(batch, VALUES, height, length, dtype=x.dtype)
    for t, term in enumerate((content, position)):
        stacked = torch.stack(
            [
                torch.cat(
                    [
                        torch.stack([torch.stack(term[b][h][y], 1) for y in range(height)], 1)
                        for h in range(HEADS)
                    ]
                )
                for b in range(batch)
            ]
        )  # [B, V, H, L]
        total = total + torch.stack(
            [
                normalise(layer.retrieval_norm, stacked[:, c], t * VALUES + c, layer.training)
                for c in range(VALUES)
            ],
            1,
        )
    return total


def normalise(norm: nn.Module, values: Tensor, channel: int, training: bool) -> Tensor:
    mean = values.mean() if training else norm.running_mean[channel]
    variance = values.var(correction=0) if training else norm.running_var[channel]
    scaled = (values - mean) / torch.sqrt(variance + norm.eps)
    return scaled * norm.weight[channel] + norm.bias[channel]


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([normalise(norm, x[:, c], c, True) for c in range(x.shape[1])], 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("length", "span", "max_offset"), [(7, 3, 254), (6, 5, 1), (5, 7, 254), (4, 1, 254)]
)
def test_equals_a_plain_loop(length: int, span: int, max_offset: int, training: bool) -> None:
    layer = attention(span, max_offset=max_offset).train(training)
    x = image(2, length)
    x_loop, x_layer = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, actual = by_loops(layer, x_loop), layer(x_layer)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
    weight = torch.linspace(-1, 1, actual.numel(), dtype=actual.dtype).view_as(actual)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x_layer.grad, x_loop.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize(("length", "span"), [(9, 17), (9, 65), (1, 1), (2, 3), (30, 59)])
def test_a_span_of_the_whole_axis_is_global(axis: str, length: int, span: int) -> None:
    size = (length, 3) if axis == "height" else (3, length)
    limited, unlimited = attention(span, axis), attention(None, axis)
    assert_equal(step(limited, image(*size)), step(unlimited, image(*size)), 1e-10)
    assert torch.equal(limited.eval()(image(*size)), unlimited.eval()(image(*size)))


@pytest.mark.parametrize(("length", "span"), [(40, 7), (41, 9), (23, 15), (23, 43)])
def test_blocks_are_global_attention_with_a_mask(length: int, span: int) -> None:
    # Statistics of the pairs in sight, from global attention's own similarities.
    layer = attention(span).eval()
    weights = layer.attention_weights(image(2, length))
    assert weights.shape == (4, HEADS, length, length)
    offsets = torch.arange(length) - torch.arange(length)[:, None]
    assert not weights[..., offsets.abs() > span // 2].any()
    everywhere = attention(None).eval().attention_weights(image(2, length))
    masked = everywhere * (offsets.abs() <= span // 2)
    torch.testing.assert_close(weights, masked / masked.sum(-1, keepdim=True))


def test_what_lies_beyond_the_span_does_not_matter() -> None:
    layer = attention(5).eval()
    x = image(1, 20)
    other = x.clone()
    other[..., 10:] += 1
    y, changed = layer(x), layer(other)
    torch.testing.assert_close(y[..., :8], changed[..., :8], atol=1e-12, rtol=0)
    assert not torch.allclose(y[..., 8], changed[..., 8])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 13), (17, 5)])
@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("span", [None, 1, 3, 7])
def test_any_size(size: tuple[int, int], axis: str, span: int | None) -> None:
    result = step(attention(span, axis), image(*size))
    assert result["y"].shape == (2, VALUES, *size)
    assert all(value.isfinite().all() for value in result.values())


def test_both_axes_are_the_same_but_for_a_transposition() -> None:
    x = image(11, 6)
    upright = attention(5, "height")(x.transpose(2, 3))
    torch.testing.assert_close(attention(5, "width")(x), upright.transpose(2, 3))


@pytest.mark.parametrize("span", [2, 64])
def test_even_spans_are_refused(span: int) -> None:
    with pytest.raises(ValueError, match=f"span must be odd.*got {span}"):
        AxialAttention(3, KEYS, VALUES, "width", heads=HEADS, span=span)


@pytest.mark.parametrize("length", [50, 300])
def test_pairs_held_grow_with_the_span(length: int) -> None:
    layer = attention(7, formulation=reference_attention)
    held = []
    layer.similarity_norm.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))
    layer(image(1, length, batch=1))
    pairs = math.prod(held[0].shape[2:])
    assert pairs <= 3.5 * 7 / 2 * length  # blocks of 3 queries and 9 keys


def test_tables_serve_every_resolution() -> None:
    # The same rows, in the middle of a longer table: a model trained at one size runs at another.
    short, long = attention(None, max_offset=12), attention(None, max_offset=30)
    state = short.state_dict()
    for name in ("query_table", "key_table", "value_table"):
        table = torch.full_like(getattr(long, name), 7.0)
        table[18:-18] = state[name]
        state[name] = table
    long.load_state_dict(state)
    short.eval(), long.eval()
    for length in (1, 5, 13):
        x = image(2, length)
        torch.testing.assert_close(long(x), short(x), atol=1e-12, rtol=0)
    # Beyond the table the last row serves: extended tables whose new rows repeat it are the same.
    for name in ("query_table", "key_table", "value_table"):
        table = state[name]
        table[:18], table[-18:] = table[18], table[-19]
    long.load_state_dict(state)
    x = image(2, 31)
    torch.testing.assert_close(long(x), short(x), atol=1e-12, rtol=0)


def test_a_span_sees_the_same_at_every_resolution() -> None:
    # With a span, what lies in sight decides: a crop and the whole image agree away from the cut.
    layer = attention(5).eval()
    whole = image(1, 40)
    torch.testing.assert_close(
        layer(whole[..., 10:30])[..., 2:-2], layer(whole)[..., 12:28], atol=1e-12, rtol=0
    )


def test_strides_subsample_after_each_axis() -> None:
    torch.manual_seed(0)

    def make(i: int, k: int, v: int, *, axis: str) -> AxialAttention:
        return AxialAttention(i, k, v, axis, heads=HEADS, span=3)

    layer = AxialAttention2d(make, 3, KEYS, VALUES, stride=2).double().eval()
    x = image(9, 8)
    expected = layer.width_axis(layer.height_axis(x)[:, :, ::2])[..., ::2]
    assert torch.equal(layer(x), expected)
    assert expected.shape == (2, VALUES, 5, 4)
