import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from axialseg.inference.attention_maps import (
    FeatureGrid,
    axial_layers,
    axis_attention,
    block_attention,
    record_attention,
)
from axialseg.layers.axial_attention import AxialAttention, AxialAttention2d
from axialseg.layers.batch_norm import BatchNorm

HEADS = 2


def randomised(module: nn.Module) -> nn.Module:
    """In evaluation mode, in float64, with weights that make attention uneven."""
    torch.manual_seed(1)
    for name, value in module.double().state_dict().items():
        value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_()
    return module.eval()


def layer(axis: str, span: int | None = None) -> AxialAttention:
    return randomised(AxialAttention(6, 8, 8, axis=axis, heads=HEADS, span=span, max_offset=4))


def block(stride: int = 1) -> nn.Module:
    def make(inputs: int, keys: int, values: int, *, axis: str) -> AxialAttention:
        return AxialAttention(inputs, keys, values, axis=axis, heads=HEADS)

    return randomised(nn.Sequential(AxialAttention2d(make, 6, 8, 8, stride), nn.ReLU()))


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 6, 7, 5, dtype=torch.float64)


def output_of_weights(layer: AxialAttention, x: Tensor, weights: Tensor) -> Tensor:
    """The layer's output from its weights, value by value of each sequence."""
    if layer.axis == "width":
        x = x.transpose(2, 3)
    value = layer.qkv(x)[:, 2 * layer.key_channels :]  # [B, V, L, others]
    value = value.permute(0, 3, 1, 2).flatten(0, 1).unflatten(1, (HEADS, -1))  # [N, h, d, L]
    length = value.shape[-1]
    content, position = torch.zeros_like(value), torch.zeros_like(value)
    assert layer.value_table is not None
    for query, key in itertools.product(range(length), repeat=2):
        weight = weights[:, :, query, key, None]
        row = min(max(key - query, -layer.max_offset), layer.max_offset) + layer.max_offset
        content[..., query] += weight * value[..., key]
        position[..., query] += weight * layer.value_table[row]
    both = torch.cat([content.flatten(1, 2), position.flatten(1, 2)], dim=1)
    y = layer.retrieval_norm(both).unflatten(1, (2, -1)).sum(1)  # [N, V, L]
    y = y.unflatten(0, (x.shape[0], -1)).permute(0, 2, 3, 1)
    return y.transpose(2, 3) if layer.axis == "width" else y


class TestWeights:
    @pytest.mark.parametrize("axis", ["height", "width"])
    @pytest.mark.parametrize("span", [None, 1, 3, 9, 101])
    @torch.no_grad()
    def test_output_follows_from_them(self, axis: str, span: int | None, image: Tensor) -> None:
        attention = layer(axis, span)
        weights = attention.attention_weights(image)
        length, others = (7, 5) if axis == "height" else (5, 7)
        assert weights.shape == (2 * others, HEADS, length, length)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        expected = attention(image)
        torch.testing.assert_close(output_of_weights(attention, image, weights), expected)

    @torch.no_grad()
    def test_nothing_beyond_the_span(self, image: Tensor) -> None:
        weights = layer("height", span=3).attention_weights(image)
        distance = (torch.arange(7) - torch.arange(7)[:, None]).abs()
        assert (weights[..., distance > 1] == 0).all()
        assert (weights[..., distance <= 1] > 0).all()


class TestRecording:
    def test_all_layers_by_name(self, image: Tensor) -> None:
        net = block()
        with torch.no_grad(), record_attention(net) as maps:
            net(image)
        assert list(maps) == ["0.height_axis", "0.width_axis"] == list(axial_layers(net))
        assert torch.equal(maps["0.height_axis"], net[0].height_axis.attention_weights(image))
        assert maps["0.width_axis"].shape == (2 * 7, HEADS, 5, 5)

    def test_some_layers(self, image: Tensor) -> None:
        net = block()
        with record_attention(net, ["0.width_axis"]) as maps:
            net(image)
        assert list(maps) == ["0.width_axis"]
        assert not maps["0.width_axis"].requires_grad

    def test_changes_nothing_and_leaves_nothing(self, image: Tensor) -> None:
        net = block()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        expected = net(image)
        with record_attention(net) as maps:
            assert torch.equal(net(image), expected)
        maps.clear()
        assert torch.equal(net(image), expected)
        assert maps == {}
        assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
        assert not any(module._forward_pre_hooks for module in net.modules())

    def test_leaves_nothing_after_an_error(self, image: Tensor) -> None:
        net = block()
        with pytest.raises(RuntimeError), record_attention(net):
            net(image[:, :3])
        assert not any(module._forward_pre_hooks for module in net.modules())

    @pytest.mark.parametrize(
        ("prepare", "layers", "message"),
        [
            (nn.Module.train, None, "evaluation mode"),
            (nn.Module.eval, ["0.height_axis", "0.depth_axis"], "no axial attention layer 0.depth"),
        ],
    )
    def test_refusals(
        self, prepare: Callable[[nn.Module], object], layers: list[str] | None, message: str
    ) -> None:
        net = block()
        prepare(net)
        with pytest.raises(ValueError, match=message), record_attention(net, layers):
            pass
        assert not any(module._forward_pre_hooks for module in net.modules())

    def test_does_not_need_the_layers_own_weights(
        self, image: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = block()
        expected = net[0].height_axis.attention_weights(image)

        def values_alone(self: AxialAttention, x: Tensor) -> Tensor:
            return self.qkv(x)[:, -self.value_channels :]

        monkeypatch.setattr(AxialAttention, "forward", values_alone)
        with record_attention(net) as maps:
            net(image)
        assert torch.equal(maps["0.height_axis"], expected)

    def test_compiled_network(self, image: Tensor) -> None:
        compilations = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
            compilations.append(graph)
            return graph.forward

        net = block()
        compiled = torch.compile(net, backend=backend)
        with torch.no_grad():
            expected = compiled(image)
            assert len(compilations) == 1  # whole, without a break
            with record_attention(compiled) as maps:
                compiled(image)
            assert list(maps) == ["0.height_axis", "0.width_axis"]
            maps.clear()
            assert torch.equal(compiled(image), expected)
        assert maps == {}
        assert len(compilations) == 1


class TestBlock:
    @staticmethod
    def effect(net: nn.Module, image: Tensor, query: tuple[int, int]) -> Iterator[Tensor]:
        """How the weights of both axes carry each position to the query, position by position."""
        with torch.no_grad(), record_attention(net) as maps:
            net(image[:1])
        height, width = (weights.mean(1) for weights in maps.values())
        stride = net[0].stride
        for y, x in itertools.product(range(7), range(5)):
            one = torch.zeros(7, 5, dtype=torch.float64)
            one[y, x] = 1
            columns = torch.einsum("wlm,mw->lw", height, one)[::stride]
            yield torch.einsum("hlm,hm->hl", width, columns)[query[0] // stride, query[1]]

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("query", [(4, 3), (6, 0), (0, 4)])
    def test_is_what_reaches_the_query(
        self, stride: int, query: tuple[int, int], image: Tensor
    ) -> None:
        net = block(stride)
        with torch.no_grad(), record_attention(net) as maps:
            net(image[:1])
        attended = block_attention(*maps.values(), query)
        expected = torch.stack(list(self.effect(net, image, query))).view(7, 5)
        torch.testing.assert_close(attended, expected)
        assert attended.sum() == pytest.approx(1)

    def test_axis_attention(self, image: Tensor) -> None:
        net = block()
        with torch.no_grad(), record_attention(net) as maps:
            net(image[:1])
        height, width = maps.values()
        column = axis_attention(height, "height", (4, 3))
        assert torch.equal(column[:, 3], height[3, :, 4].mean(0))
        assert column.isnan().sum() == 7 * 4
        row = axis_attention(width, "width", (4, 3))
        assert torch.equal(row[4], width[4, :, 3].mean(0))
        assert row.isnan().sum() == 6 * 5
        assert column.nansum() == pytest.approx(1)


@pytest.mark.parametrize("size", [(65, 97), (64, 100), (33, 1)])
@pytest.mark.parametrize("stride", [4, 16])
def test_feature_grid(size: tuple[int, int], stride: int) -> None:
    rows, columns = ((length - 1) // stride + 1 for length in size)
    for axis, weights in {
        "height": torch.zeros(columns, HEADS, rows, rows),
        "width": torch.zeros(rows, HEADS, columns, columns),
    }.items():
        grid = FeatureGrid.of(weights, axis, size)
        assert grid.size == (rows, columns)
        assert grid.strides[0] == stride
        assert grid.strides[1] == (stride if columns > 1 else 1)
        assert grid.position((0, 0)) == (0, 0)
        assert grid.position((2 * stride, 0)) == (2, 0)
        assert grid.position((2 * stride - stride // 2, 0)) == (2, 0)
        assert grid.position((2 * stride - stride // 2 - 1, 0)) == (1, 0)
        assert grid.position((size[0] - 1, size[1] - 1)) == (rows - 1, columns - 1)


def test_batch_norms_do_not_move(image: Tensor) -> None:
    net = block()
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    before = [norm.running_mean.clone() for norm in norms]
    with record_attention(net):
        net(image)
    assert all(torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))
