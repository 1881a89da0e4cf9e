"""Gradients of batch norm: the same for any layout in memory, and exact in float32."""

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


def laid_out(shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """Random values of a shape whose axes lie in memory in that order."""
    x = torch.randn([shape[axis] for axis in order], dtype=torch.float64)
    return x.permute([order.index(axis) for axis in range(len(shape))])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_do_not_depend_on_the_layout(
    shape: tuple[int, ...], mode: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    axes = range(len(shape))
    orders = list(itertools.permutations(axes))
    memory = [tuple(axes), (0, *axes[2:], 1), (*axes[1:], 0)]  # as usual, channels last, batch last
    for x_order, order in itertools.product(memory, orders):
        x = laid_out(shape, x_order).to(dtype).requires_grad_()
        norm = BatchNorm(shape[1]).to(dtype).train(mode == "train")
        norm.weight.data.uniform_(0.5, 1.5)
        incoming = laid_out(shape, order).to(dtype)
        inputs = (x, norm.weight)
        actual = torch.autograd.grad(norm(x), inputs, incoming)
        expected = torch.autograd.grad(plain(norm, x), inputs, incoming)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_gradients_are_exact(layout: torch.memory_format) -> None:
    """PyTorch's own kernels for CPUs miss each limit, by 2 to 35 times."""
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(2, 8, 181, 181, generator=generator) + 1).to(memory_format=layout)
    incoming = torch.randn(x.shape, generator=generator).add(1).to(memory_format=layout)
    norm = BatchNorm(8)
    inputs = (x.requires_grad_(), norm.bias)
    x_gradient, bias_gradient = torch.autograd.grad(norm(x), inputs, incoming)
    exact = incoming.double().sum((0, 2, 3))
    assert (bias_gradient - exact).abs().max() <= 1e-7 * exact.abs().max()
    # A shift of all of x has no effect.
    mean = x_gradient.double().mean((0, 2, 3))
    assert mean.abs().max() <= 2e-8 * x_gradient.abs().max()
