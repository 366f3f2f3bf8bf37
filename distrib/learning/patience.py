"""What waits for a score to get better: the plateau schedule and early stopping. Their state is a few numbers."""

import math
from dataclasses import dataclass

RELATIVE = 1e-4  # how much better a loss must be for the plateau schedule, of itself: torch's default


@dataclass
class Plateau:
    """Multiplies the rate by ``gamma`` after more than ``patience`` epochs without a better test loss."""

    patience: int
    gamma: float
    scale: float = 1.0
    best: float | None = None
    waited: int = 0

    def observe(self, loss: float) -> None:
        """Take an epoch's test loss."""
        better = self.best is None or loss < self.best * (1 - RELATIVE)
        if better and math.isfinite(loss):  # nothing is less than no number
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.gamma, 0


@dataclass
class EarlyStop:
    """Ends a run after ``patience`` epochs without an accuracy better by more than ``delta``; None: never."""

    patience: int | None
    delta: float
    best: float | None = None
    waited: int = 0

    def observe(self, top1: float) -> None:
        """Take an epoch's test accuracy, of 1."""
        if self.best is None or top1 > self.best + self.delta:
            self.best, self.waited = top1, 0
        else:
            self.waited += 1

    @property
    def spent(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience
