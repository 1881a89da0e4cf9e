"""Cosine decay of the learning rate, with a linear warm-up.

Source: Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts; deeplab2
``trainer/trainer_utils.py`` (cosine learning policy). The warm-up is that of the poly schedule.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """The factor on the base learning rate at an optimiser step.

    Attributes:
        max_steps: step at which the factor reaches 0; it stays 0 afterwards.
        warmup_steps: steps of the linear warm-up, which starts at factor 0; 0 for none.
    """

    max_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """The factor, 0..1, for optimiser step `step` (0 is the first)."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        return 0.5 * (1.0 + math.cos(math.pi * min(step, self.max_steps) / self.max_steps))
