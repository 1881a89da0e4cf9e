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

from collections.abc import Callable, Iterable
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
                for kernel in group["params"]:
                    self._turn(kernel, group)
            else:
                self._step_group(group)
        return loss

    def _turn(self, kernel: Tensor, group: dict[str, Any]) -> None:
        """Steps one kernel ``[C_out, ...]``."""
        if kernel.grad is None:
            return
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        momentum = state["momentum"].mul_(group["momentum"]).add_(kernel.grad)
        wanted = kernel.grad.add(momentum, alpha=group["momentum"])
        direction = orthogonalised(wanted.flatten(1)).view(wanted.shape)
        length = kernel.norm()
        share = group["turn"] * group["lr"] * length / direction.norm().clamp_min(1e-12)
        kernel.sub_(direction * share)
        kernel.mul_(length / kernel.norm().clamp_min(1e-12))


def orthogonalised(matrix: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """The matrix ``[m, n]`` with singular values of about 1 (0.3..1.3); tiny ones stay smaller.

    Newton-Schulz iterations ``X = a X + b (X X^T) X + c (X X^T)^2 X`` from ``X = G / |G|``. They
    are done on the smaller one of ``X X^T`` and ``X^T X``, with which they commute. So the long
    side is multiplied twice in all.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    start = wide / wide.norm().clamp_min(1e-12)
    gram = start @ start.T
    total = None
    for _ in range(iterations):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal().add_(a)
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    found = start if total is None else total @ start
    return found if wide is matrix else found.T
