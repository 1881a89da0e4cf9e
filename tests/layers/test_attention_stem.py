"""The stem of the fully attentional network is a plain loop over the formulas of its paper."""

import pytest
import torch
from torch import Tensor, nn

from axialseg.layers.stem import AttentionStem


def stem(training: bool) -> AttentionStem:
    torch.manual_seed(0)
    layer = AttentionStem(channels=6, heads=2, matrices=3).double().train(training)
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    return layer


def by_loops(layer: AttentionStem, image: Tensor) -> Tensor:
    """Ramachandran et al. 2019, appendix A, block by block."""
    batch, _, height, width = image.shape
    query_weight, key_weight = layer.query_key.weight.chunk(2)
    blocks: dict[tuple[int, int, int], list[Tensor]] = {}
    for b in range(batch):
        for top in range(0, height, 4):
            for left in range(0, width, 4):
                inside = [
                    (y, x)
                    for y in range(top, min(top + 4, height))
                    for x in range(left, min(left + 4, width))
                ]
                values = []
                for y, x in inside:
                    place = layer.row_table[y - top] + layer.column_table[x - left]
                    shares = torch.stack([place @ v for v in layer.matrix_table]).softmax(0)
                    matrix = sum(s * m for s, m in zip(shares, layer.values, strict=True))
                    values.append(matrix @ image[b, :, y, x])
                outputs = []
                for y, x in inside:
                    query = query_weight @ image[b, :, y, x]
                    heads = []
                    for own in (slice(0, 3), slice(3, 6)):
                        keys = [(key_weight @ image[b, :, v, u])[own] for v, u in inside]
                        weights = torch.stack([query[own] @ k for k in keys]).softmax(0)
                        heads.append(sum(w * v[own] for w, v in zip(weights, values, strict=True)))
                    outputs.append(torch.cat(heads))
                blocks[b, top // 4, left // 4] = outputs
    everything = torch.stack([y for outputs in blocks.values() for y in outputs])
    norm = layer.norm
    mean, variance = norm.running_mean, norm.running_var
    if layer.training:
        mean, variance = everything.mean(0), everything.var(0, correction=0)
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    rows = [
        ((torch.stack(outputs) - mean) * scale + norm.bias).amax(0) for outputs in blocks.values()
    ]
    return torch.stack(rows).view(batch, -(-height // 4), -(-width // 4), -1).permute(0, 3, 1, 2)


def gradients(y: Tensor, layer: nn.Module, image: Tensor) -> list[Tensor]:
    weight = torch.linspace(0, 9, y.numel(), dtype=y.dtype).sin().view_as(y)
    return list(torch.autograd.grad((y * weight).sum(), [image, *layer.parameters()]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(4, 8), (5, 7)])
def test_equals_the_formulas(size: tuple[int, int], training: bool) -> None:
    layer = stem(training)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).requires_grad_()
    expected = by_loops(layer, image)
    y = layer(image)
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
    for one, two in zip(gradients(y, layer, image), gradients(expected, layer, image), strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-10)
