"""Gradients of batch norm for shapes whose memory layout is ambiguous."""

import itertools

import pytest
import torch
from torch import Tensor

from axialseg.layers.batch_norm import BatchNorm

SHAPES = [(2, 3, 5, 1), (2, 3, 1, 5), (1, 3, 4, 5), (2, 3, 4, 5), (2, 1, 3, 4, 5), (2, 3, 5)]


def plain(norm: BatchNorm, x: Tensor) -> Tensor:
    """Batch norm by its definition, in evaluation with mean 0 and variance 1."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, variance = torch.zeros(1, dtype=x.dtype), torch.ones(1, dtype=x.dtype)
    if norm.training:
        dims = [d for d in range(x.ndim) if d != 1]
        mean, variance = x.mean(dims).view(shape), x.var(dims, unbiased=False).view(shape)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_do_not_depend_on_the_layout(shape: tuple[int, ...], mode: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for order in itertools.permutations(range(len(shape))):
        norm = BatchNorm(shape[1]).double().train(mode == "train")
        norm.weight.data.uniform_(0.5, 1.5)
        incoming = torch.randn([shape[d] for d in order], dtype=torch.float64)
        incoming = incoming.permute([order.index(d) for d in range(len(shape))])
        (actual,) = torch.autograd.grad(norm(x), x, incoming)
        (expected,) = torch.autograd.grad(plain(norm, x), x, incoming)
        torch.testing.assert_close(actual, expected)
