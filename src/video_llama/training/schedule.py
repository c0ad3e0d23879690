"""Learning rates: linear warm-up, then half a cosine."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from video_llama.errors import OptionError


@dataclass(frozen=True)
class WarmupCosine:
    """The published rule, as the original computes it before each step.

    `peak`, `floor` and `start` are rates: where the cosine begins, where it ends, and where the
    warm-up begins. The cosine counts steps from the very first, so the rate drops a little when
    the warm-up ends; a warm-up longer than an epoch begins again with every epoch.
    """

    peak: float
    floor: float
    start: float
    warmup_steps: int
    steps_per_epoch: int
    epochs: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1 or self.epochs < 1:
            raise OptionError("steps_per_epoch and epochs must be at least 1")
        if self.peak <= 0 or self.floor < 0 or self.start < 0:
            raise OptionError(
                f"rates are above 0; peak is {self.peak:g}, floor {self.floor:g} and start "
                f"{self.start:g} (of these two, 0 will do)"
            )
        if self.warmup_steps < 0:
            raise OptionError(f"warmup_steps is {self.warmup_steps}; give 0 or more")

    @property
    def total_steps(self) -> int:
        """All steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    @property
    def highest(self) -> float:
        """The highest rate that a step has."""
        warm = min(self.warmup_steps, self.steps_per_epoch)
        steps = (warm - 1, min(self.warmup_steps, self.total_steps - 1))
        return max(self.rate(max(step, 0)) for step in steps)

    @property
    def warning(self) -> str:
        """What is wrong with it, or ""."""
        if self.highest >= 0.9 * self.peak:
            return ""
        return (
            f"the rate rises to {self.highest:.3g} and never to schedule.peak, {self.peak:.3g}: "
            f"schedule.warmup_steps is {self.warmup_steps:,} of {self.total_steps:,} steps; "
            "give fewer"
        )

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0 over all epochs."""
        if step < self.warmup_steps:
            inside = step % self.steps_per_epoch
            warm = self.start + (self.peak - self.start) * inside / self.warmup_steps
            return min(self.peak, warm)
        swing = 0.5 * (1.0 + math.cos(math.pi * step / self.total_steps))
        return self.floor + (self.peak - self.floor) * swing

    def factor(self) -> Callable[[int], float]:
        """For `torch.optim.lr_scheduler.LambdaLR`, with `peak` as the optimizer's own rate."""
        return lambda step: self.rate(step) / self.peak
