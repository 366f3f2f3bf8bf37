"""Measurements by turns: A B, B A, A B, ..., so that what the machine does meanwhile meets both alike."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

Measure = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """How many times a first figure is a second one, of pairs that were measured next to one another."""

    ratios: list[float]

    @property
    def median(self) -> float:
        """Of all pairs."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return min(self.ratios), max(self.ratios)

    def __str__(self) -> str:
        low, high = self.spread
        return f"{self.median:.2f} ({low:.2f} to {high:.2f})"


def by_turns(contestants: dict[str, Measure], rounds: int) -> dict[str, list[float]]:
    """What each contestant measured in each round; the order is turned round every time."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            found[name].append(contestants[name]())
            print(f"  round {number + 1}: {name} {found[name][-1]:,.4g}", flush=True)
    return found


def against(ours: Measure, others: dict[str, Measure], rounds: int) -> dict[str, Ratio]:
    """How many times each of the others we are; we are measured anew next to each, as minutes later all may be else."""
    found: dict[str, list[float]] = {name: [] for name in others}
    for number in range(rounds):
        for name, other in others.items():
            turns = by_turns({"ours": ours, name: other} if number % 2 else {name: other, "ours": ours}, 1)
            found[name].append(turns["ours"][0] / turns[name][0])
    return {name: Ratio(ratios) for name, ratios in found.items()}
