"""Polynomial decay of the learning rate, with a linear warm-up.

Source: deeplab2 ``trainer/trainer_utils.py`` (poly learning policy and `WarmUp`), the curve of all
DeepLab recipes. The warm-up does not shift the curve. Up to `warmup_steps` the rate rises along a
straight line to its base value. Then it follows the curve that began at step 0, so that it drops a
little where the two meet.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PolySchedule:
    """The factor on the base learning rate at an optimiser step.

    Attributes:
        max_steps: step at which the factor reaches 0; it stays 0 afterwards.
        warmup_steps: steps of the linear warm-up, which starts at factor 0; 0 for none.
        power: exponent of the curve ``(1 - step / max_steps) ** power``.
    """

    max_steps: int
    warmup_steps: int = 0
    power: float = 0.9

    def __call__(self, step: int) -> float:
        """The factor, 0..1, for optimiser step `step` (0 is the first)."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        return (1.0 - min(step, self.max_steps) / self.max_steps) ** self.power
