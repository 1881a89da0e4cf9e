"""The textbook form is the layer itself: same weights, outputs, gradients and statistics."""

import pytest
import torch
from torch import Tensor, nn

from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention

TERMS = ("content_similarity", "query_position", "key_position", "value_content", "value_position")


def pair(**options: object) -> tuple[AxialAttention, TextbookAxialAttention]:
    """Ours and the textbook form with the same random weights and statistics, in float64."""
    torch.manual_seed(0)
    arguments = {"in_channels": 6, "key_channels": 8, "value_channels": 16, "heads": 2, **options}
    ours = AxialAttention(**arguments).double()
    with torch.no_grad():
        for name, value in ours.state_dict().items():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    textbook = TextbookAxialAttention(**arguments).double()
    textbook.load_state_dict(ours.state_dict(), strict=True)
    return ours, textbook


def step(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    (y * weight).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"span": 5}, {"max_offset": 3}, *({term: False} for term in TERMS)]
)
def test_equals_our_layer(axis: str, training: bool, options: dict[str, object]) -> None:
    ours, textbook = pair(axis=axis, **options)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    one, two = (step(layer.train(training), x) for layer in (ours, textbook))
    # The softmax cancels the similarity norm's bias: one form may not compute its gradient of 0.
    zero = "similarity_norm.bias"
    assert one.keys() - {zero} == two.keys() - {zero}
    for name in one.keys() & two.keys():
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10, msg=name)


def test_keeps_every_map_until_the_backward_pass() -> None:
    _, textbook = pair(axis="width")
    length, rows, heads, width = 33, 4, 2, 1
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    x = torch.randn(width, 6, rows, length, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = textbook(x)
    maps = width * rows * heads * length**2
    # The concatenated similarities, and the softmax of their sum.
    assert sum(numel for numel in saved.values() if numel % maps == 0) >= 4 * maps
    assert y.shape == (width, 16, rows, length)
