"""Adam as TensorFlow computes it.

Source: Kingma & Ba 2015, "Adam", the re-ordered form at the end of section 2; TensorFlow's
``ApplyAdam`` kernel, as used by deeplab2. It differs from `torch.optim.Adam` in one place: epsilon
is added outside of the bias correction,

    w -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)

so that it weighs ``1 / sqrt(1 - beta2^t)`` times (32 times at t = 1) more in the first steps.
Weight decay is decoupled (Loshchilov & Hutter 2019, as in Keras' AdamW):
``w -= lr * weight_decay * w`` before the step above.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Adam(Optimizer):
    """Adam with epsilon outside of the bias correction, and decoupled weight decay.

    Steps all tensors with one call per operation (`torch._foreach_*`): few kernel launches on a
    GPU, and a fixed order of elementwise operations, so that results repeat bit for bit. A
    parameter without a gradient keeps its value, its moments and its step count.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        """Takes parameters or groups of them; a group may set any of the other arguments.

        Args:
            params: parameters, or dicts with the key ``params``.
            lr: learning rate.
            betas: decay rates of the first and second moment.
            epsilon: added to the root of the second moment.
            weight_decay: share of a weight, times `lr`, that is taken off in each step.
        """
        beta1, beta2 = betas
        if not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
            raise ValueError(f"betas must lie in [0, 1), not {tuple(betas)}")
        defaults = {
            "lr": lr,
            "betas": (beta1, beta2),
            "epsilon": epsilon,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Makes one step and returns the loss of the closure, which is called first if given."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        """Steps all tensors of a group."""
        for step, params in self._by_step(group["params"]).items():
            self._step_together(params, step, group)

    def _by_step(self, params: list[Tensor]) -> dict[tuple[Any, ...], list[Tensor]]:
        """Counts the step of each tensor that has a gradient.

        Returns:
            Tensors that can be stepped by one call, by (step, device, dtype).
        """
        together: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        for param in params:
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["first_moment"] = torch.zeros_like(param)
                state["second_moment"] = torch.zeros_like(param)
            state["step"] += 1
            together[state["step"], param.device, param.dtype].append(param)
        return together

    def _step_together(
        self, params: list[Tensor], key: tuple[Any, ...], group: dict[str, Any]
    ) -> None:
        """Steps tensors of one device, dtype and step count."""
        step = key[0]
        beta1, beta2 = group["betas"]
        lr = group["lr"]
        grads = [param.grad for param in params if param.grad is not None]
        first = [self.state[param]["first_moment"] for param in params]
        second = [self.state[param]["second_moment"] for param in params]

        if group["weight_decay"]:
            torch._foreach_mul_(params, 1.0 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, grads, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1.0 - beta2)
        denominator = torch._foreach_sqrt(second)
        torch._foreach_add_(denominator, group["epsilon"])
        rate = lr * (1.0 - beta2**step) ** 0.5 / (1.0 - beta1**step)
        torch._foreach_addcdiv_(params, first, denominator, -rate)
