"""Lookahead: slow weights that follow an optimiser's fast ones.

Source: Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back" (arXiv 1907.08610),
algorithm 1; around RAdam (Liu et al. 2020, arXiv 1908.03265) it is what Axial-DeepLab and
MaX-DeepLab were trained with. After every k steps of the inner optimiser,

    slow += alpha * (fast - slow);  fast = slow

while the inner optimiser keeps its moments. The slow weights begin at the initial ones.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lookahead(Optimizer):
    """An optimiser that takes back a share of every `sync_period` steps of another one.

    Both have the same groups and one common state, so that schedules, checkpoints and loss scaling
    treat them as one optimiser. The networks' weights are the fast ones. A parameter without a
    gradient keeps its weights and its count of steps.

    Args:
        params: parameters, or groups of them as the inner optimiser takes them.
        optimizer: makes the inner optimiser from `params`.
        sync_period: k, steps of the inner optimiser between two moves of the slow weights.
        slow_step: alpha, share of the way to the fast weights that they then move, in (0, 1].

    Raises:
        ValueError: `sync_period` or `slow_step` is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        optimizer: Callable[[Any], Optimizer],
        sync_period: int = 5,
        slow_step: float = 0.5,
    ) -> None:
        if sync_period < 1:
            raise ValueError(f"sync_period must be 1 or more, not {sync_period}")
        if not 0.0 < slow_step <= 1.0:
            raise ValueError(f"slow_step must lie in (0, 1], not {slow_step}")
        self.sync_period = sync_period
        self.slow_step = slow_step
        self._inner = optimizer(params)
        super().__init__(self._inner.param_groups, self._inner.defaults)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave, the slow weights and the inner optimiser's state alike."""
        super().load_state_dict(state_dict)
        self._share_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to both optimisers."""
        super().add_param_group(param_group)
        self._share_state()

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Makes one step of the inner optimiser; the slow weights follow when it is their turn.

        Returns the loss of the closure, which is called first if given.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        stepped = [
            param
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None
        ]
        # Kept apart, because to an inner optimiser an empty state means the first step.
        initial = {param: param.clone() for param in stepped if not self.state.get(param)}
        self._inner.step()
        for param in stepped:
            state = self.state[param]
            if param in initial:
                state["slow"], state["since_sync"] = initial[param], 0
            state["since_sync"] += 1
        due = [param for param in stepped if self.state[param]["since_sync"] == self.sync_period]
        if due:
            slow = [self.state[param]["slow"] for param in due]
            torch._foreach_lerp_(slow, due, self.slow_step)
            torch._foreach_copy_(due, slow)
            for param in due:
                self.state[param]["since_sync"] = 0
        return loss

    def _share_state(self) -> None:
        """Lets the inner optimiser work on these groups and this state."""
        self._inner.param_groups = self.param_groups
        self._inner.state = self.state
