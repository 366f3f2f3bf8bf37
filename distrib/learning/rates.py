"""The learning rate and momentum of every update: pure functions of the update's index. No torch, no state.

The plateau schedule alone looks at what happened; its one number is passed in as ``scale``.
"""

import math
from dataclasses import dataclass

from distrib.settings import Optimization, Schedule

WARMUP_START = 0.01  # of the rate
DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4  # of one-cycle: Smith and Topin, arXiv:1708.07120, with torch's defaults
BASE_MOMENTUM, MAX_MOMENTUM = 0.85, 0.95


@dataclass(frozen=True)
class Rates:
    """The planned curve of a run of ``total`` updates, ``per_epoch`` of them in an epoch."""

    optimization: Optimization
    schedule: Schedule
    per_epoch: int
    total: int

    @property
    def warmup(self) -> int:
        """Updates of the warm-up; at least one is left to the schedule."""
        return min(round(self.schedule.warmup_epochs * self.per_epoch), self.total - 1)

    def lr(self, step: int, scale: float = 1.0) -> float:  # noqa: PLR0911 - one for each schedule
        """Learning rate of the update with index ``step`` (from 0)."""
        peak = self.optimization.lr
        if step < self.warmup:
            return peak * (WARMUP_START + (1 - WARMUP_START) * step / self.warmup)
        after, length, low = step - self.warmup, self.total - self.warmup, self.schedule.min_lr
        match self.schedule.schedule:
            case "onecycle":
                first, last = peak / DIV_FACTOR, peak / DIV_FACTOR / FINAL_DIV_FACTOR
                return self._cycle(after, length, first, peak, last)
            case "cosine":
                return cosine(peak, low, after / length)
            case "linear":
                return low + (peak - low) * (1 - after / length)
            case "restarts":
                return cosine(peak, low, self._within_restart(after))
            case "multistep":
                passed = sum(step >= milestone * self.per_epoch for milestone in self.schedule.milestones)
                return peak * self.schedule.gamma**passed
            case "plateau":
                return max(peak * scale, low)
            case "constant":
                return peak

    def momentum(self, step: int) -> float:
        """Momentum (SGD) or first beta (Adam) of the update with index ``step`` (from 0)."""
        if self.schedule.schedule != "onecycle":
            return self.optimization.momentum
        after, length = max(step - self.warmup, 0), self.total - self.warmup
        return self._cycle(after, length, MAX_MOMENTUM, BASE_MOMENTUM, MAX_MOMENTUM)

    def _cycle(self, step: int, length: int, first: float, middle: float, last: float) -> float:
        """From ``first`` to ``middle`` over the rising share of the cycle, then to ``last``, by half cosines."""
        turn = self.schedule.pct_start * length - 1
        if step <= turn:
            return cosine(first, middle, step / turn if turn else 1.0)
        return cosine(middle, last, (step - turn) / (length - 1 - turn))

    def _within_restart(self, step: int) -> float:
        """How far the current cosine has come, of 1 (Loshchilov and Hutter, arXiv:1608.03983)."""
        period, multiplier = self.schedule.restart_epochs * self.per_epoch, self.schedule.restart_multiplier
        while step >= period:
            step -= period
            period *= multiplier
        return step / period


def cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` to ``end``, ``share`` of the way (0 to 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
