"""Muon: kernels that a batch norm follows are turned by equal angles, all else has Adam.

A batch norm takes the length out of the kernel before it, so only its direction matters. Muon makes
the step of such a kernel orthogonal: as a matrix ``[C_out, C_in * k * k]`` all its singular values
are made about equal, so that rare directions learn as fast as common ones.

    m = momentum * m + g
    u = orthogonalised(g + momentum * m)
    w = w - turn * lr * |w| * u / |u|, then scaled back to its length

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; kernels of
fixed length and three iterations as in the same author's `airbench94_muon`. Difference: a kernel
keeps the length that it starts with, and a step is a share of it, whatever the kernel's shape.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from axialseg.optim.adam import Adam

# Of the odd polynomial a x + b x^3 + c x^5, which lifts small singular values fastest.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 3


class Muon(Adam):
    """Muon for groups that are marked ``"normed": True``, `Adam` for all others.

    `parameter_groups(..., normed_kernels_apart=True)` makes such groups.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        turn: float = 5.0,
        momentum: float = 0.6,
    ) -> None:
        """Takes groups of parameters; a group may set any of the other arguments.

        Args:
            params: parameters, or dicts with the key ``params``.
            lr: learning rate.
            betas: of Adam.
            epsilon: of Adam.
            weight_decay: of Adam; the length of a normed kernel stays.
            turn: times `lr` is a normed kernel's step, as a share of its length.
            momentum: share of the earlier steps' sum that a step adds, 0..1 (Nesterov's).
        """
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
        super().__init__(params, lr, betas, epsilon, weight_decay)
        for group in self.param_groups:
            group.setdefault("turn", turn)
            group.setdefault("momentum", momentum)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Makes one step and returns the loss of the closure, which is called first if given."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group.get("normed"):
                self._turn([kernel for kernel in group["params"] if kernel.grad is not None], group)
            else:
                self._step_group(group)
        return loss

    def _turn(self, kernels: list[Tensor], group: dict[str, Any]) -> None:
        """Steps kernels ``[C_out, ...]`` that have a gradient, with one call per operation."""
        if not kernels:
            return
        for kernel in kernels:
            if not self.state[kernel]:
                self.state[kernel]["momentum"] = torch.zeros_like(kernel)
        share = group["momentum"]
        grads = [kernel.grad for kernel in kernels if kernel.grad is not None]
        momenta = [self.state[kernel]["momentum"] for kernel in kernels]
        torch._foreach_mul_(momenta, share)
        torch._foreach_add_(momenta, grads)
        wanted = torch._foreach_add(grads, momenta, alpha=share)
        turned = orthogonalised([matrix.flatten(1) for matrix in wanted])
        directions = [u.view(kernel.shape) for u, kernel in zip(turned, kernels, strict=True)]
        lengths = torch._foreach_norm(kernels)
        steps = torch._foreach_div(lengths, _at_least_tiny(torch._foreach_norm(directions)))
        torch._foreach_mul_(steps, -group["turn"] * group["lr"])
        torch._foreach_mul_(directions, steps)
        torch._foreach_add_(kernels, directions)
        torch._foreach_div_(lengths, _at_least_tiny(torch._foreach_norm(kernels)))
        torch._foreach_mul_(kernels, lengths)


def orthogonalised(matrices: Sequence[Tensor], iterations: int = ITERATIONS) -> list[Tensor]:
    """Matrices ``[m, n]`` with singular values of about 1 (0.3..1.3); tiny ones stay smaller.

    Newton-Schulz iterations ``X = a X + b (X X^T) X + c (X X^T)^2 X`` from ``X = G / |G|``. They
    are done on the smaller one of ``X X^T`` and ``X^T X``, with which they commute. So the long
    side is multiplied twice in all, and matrices with equal short sides go through them together.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    starts = torch._foreach_div(wide, _at_least_tiny(torch._foreach_norm(wide)))
    places = defaultdict(list)
    for place, start in enumerate(starts):
        places[start.shape[0], start.dtype, start.device].append(place)
    found = list(starts)
    for together in places.values():
        grams = torch.stack([starts[place] @ starts[place].T for place in together])
        for place, factor in zip(together, _iterated(grams, iterations), strict=True):
            found[place] = factor @ starts[place]
    pairs = zip(found, wide, matrices, strict=True)
    return [u if same is matrix else u.T for u, same, matrix in pairs]


def _iterated(gram: Tensor, iterations: int) -> Tensor:
    """The product of all iterations' factors, from ``X X^T``; both ``[N, m, m]``."""
    factor = total = _factor(gram)
    for _ in range(iterations - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        total = factor @ total
    return total


def _factor(gram: Tensor) -> Tensor:
    """What an iteration multiplies X by: ``a + b X X^T + c (X X^T)^2``."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def _at_least_tiny(lengths: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lengths that one can divide by."""
    return torch._foreach_clamp_min(lengths, 1e-12)
