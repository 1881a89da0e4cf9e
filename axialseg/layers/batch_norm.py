"""Batch normalisation with the statistics of the authors' code, synchronised over ranks.

Source: deeplab2 ``model/utils.py`` / Keras ``SyncBatchNormalization`` (epsilon 1e-3, decay 0.99).
It differs from `torch.nn.BatchNorm2d` in two ways: the running variance takes the *biased* batch
variance, and statistics are taken over all ranks on every backend, gloo as well as NCCL
(`torch.nn.SyncBatchNorm` is for GPUs only and keeps the unbiased variance).
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Normalises dimension 1 of ``[N, C, ...]`` over all other dimensions.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: share of the batch in the update of the running statistics.
        initial_gamma: initial scale; residual branches end with 0, so that they start as identity.
    """

    def __init__(
        self, channels: int, eps: float = 1e-3, momentum: float = 0.01, initial_gamma: float = 1.0
    ) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((channels,), initial_gamma))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Normalises x; in training the running statistics move.

        Args:
            x: float ``[N, C, ...]``.
            where: bool, broadcastable to x; False values take no part in the statistics (they are
                still normalised). None means all.

        Returns:
            The same shape and dtype as x.
        """
        if not self.training:
            return self._library(x, self.running_mean, self.running_var)
        if where is not None or world_size() > 1:
            return self._explicit(x, where)
        count = x.numel() // x.shape[1]
        if count == 1:  # the library refuses a single value per channel; its variance is 0
            self.update(x.detach().flatten(), torch.zeros_like(self.running_var))
            return (x * 0).transpose(1, -1).add(self.bias).transpose(1, -1)
        # With momentum 1 the fused kernel hands out the batch statistics, which saves a pass.
        mean = torch.zeros_like(self.running_mean)
        variance = torch.ones_like(self.running_var)
        y = self._library(x, mean, variance)
        self.update(mean, variance * ((count - 1) / count))
        return y

    def _library(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """PyTorch's kernels; in training `mean` and `variance` become those of x, unbiased."""
        if _is_ambiguous(x):
            if x.is_contiguous():
                return self._library(x.flatten(2), mean, variance).reshape(x.shape)
            rows = x.movedim(1, -1)
            y = self._library(rows.reshape(-1, rows.shape[-1]), mean, variance)
            return y.view(rows.shape).movedim(-1, 1)
        scale, shift, training = self.weight, self.bias, self.training
        if training and _loses_digits(x) and not torch.compiler.is_compiling():
            return _Normalise.apply(x, scale, shift, mean, variance, self.eps)
        return F.batch_norm(x, mean, variance, scale, shift, training, float(training), self.eps)

    def _explicit(self, x: Tensor, where: Tensor | None) -> Tensor:
        """The same in elementary steps: over ranks, or over a part of the values."""
        shape = [1, -1] + [1] * (x.ndim - 2)
        dims = [d for d in range(x.ndim) if d != 1]
        values = x if x.dtype == torch.float64 else x.float()
        counted = torch.ones((), device=x.device) if where is None else where.to(values.dtype)
        count = counted.expand_as(x[:, :1]).sum(dtype=values.dtype)
        count = sum_over_ranks(count)
        mean = sum_over_ranks((values * counted).sum(dims)) / count
        centred = values - mean.view(shape)
        variance = sum_over_ranks((centred.square() * counted).sum(dims)) / count
        self.update(mean.detach(), variance.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def update(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards a batch's, ``[C]``; the variance is biased."""
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"{self.weight.numel()}, eps={self.eps}, momentum={self.momentum}"


def _is_ambiguous(x: Tensor) -> bool:
    """Whether a shape looks the same with channels first and with channels last in memory.

    For such shapes PyTorch's backward kernel for CPUs (2.13) confuses the layouts of the input and
    of the incoming gradient, and returns wrong gradients. With one axis or none after C it is
    right.
    """
    return x.ndim > 4 or (x.ndim == 4 and (x.shape[0] == 1 or 1 in x.shape[2:]))


def _loses_digits(x: Tensor) -> bool:
    """Whether PyTorch's backward kernel adds up the gradients of a channel one after the other.

    Its kernel for CPUs does. In float32 the gradient of a bias was then up to 80 times further from
    the true value than with sums of partial sums, and such errors reach every layer below.
    """
    return x.device.type == "cpu" and x.dtype == torch.float32


class _Normalise(torch.autograd.Function):
    """`F.batch_norm` in training, momentum 1, with sums of partial sums in the backward pass."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> Tensor:
        y, center, inverse = torch.native_batch_norm(
            x, scale, shift, mean, variance, True, 1.0, eps
        )
        ctx.save_for_backward(x, scale, center, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, scale, center, inverse = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1]
        slope = scale * inverse
        shift_gradient = _channel_sums(gradient)
        centred = x - center.view(shape)
        scale_gradient = _channel_sums(gradient * centred) * inverse
        # slope (dy - mean(dy) - y' mean(dy y')) with y' = centred * inverse, in place.
        centred.mul_((slope * inverse * scale_gradient / -count).to(x.dtype).view(shape))
        centred.addcmul_(gradient, slope.view(shape))
        centred.sub_((slope * shift_gradient / count).to(x.dtype).view(shape))
        return centred, scale_gradient.to(x.dtype), shift_gradient.to(x.dtype), None, None, None


RUN, ROWS = 64, 16  # values that are added up in float32 before they go into a sum in float64


def _channel_sums(x: Tensor) -> Tensor:
    """x: float32 ``[N, C, ...]`` -> ``[C]``, float64; float64 from the start takes far longer."""
    order = sorted(range(2, x.ndim), key=x.stride, reverse=True)
    if x.stride(1) == 1:
        values, run, dim = x.permute(0, *order, 1).reshape(-1, x.shape[1]), ROWS, 0
    else:
        values, run, dim = x.permute(1, 0, *order).reshape(x.shape[1], len(x), -1), RUN, 2
    whole = values.shape[dim] // run * run
    parts = values.narrow(dim, 0, whole).unflatten(dim, (-1, run)).sum(dim + 1)
    rest = values.narrow(dim, whole, values.shape[dim] - whole)
    dims = (0,) if dim == 0 else (1, 2)
    return parts.sum(dims, dtype=torch.float64) + rest.sum(dims, dtype=torch.float64)


def world_size() -> int:
    """Number of ranks that statistics are taken over."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Differentiable; x itself where there is one rank."""
    return _SumOverRanks.apply(x) if world_size() > 1 else x


class _SumOverRanks(torch.autograd.Function):
    """Sum over all ranks; the gradient of a sum is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
