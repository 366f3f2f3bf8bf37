"""Measurements by turns: A B, B A, A B, ..., so that what the machine does meanwhile meets all alike."""

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
        return f"{self.median:.2f} ({low:.2f} to {high:.2f}, {len(self.ratios)} pairs)"


def against(ours: Measure, others: dict[str, Measure], rounds: int) -> dict[str, Ratio]:
    """How many times each of the others we are; we are measured between every two, as minutes later all may be else."""
    found: dict[str, list[float]] = {name: [] for name in others}
    measures, names = {"ours": ours, **others}, list(others)
    for number in range(rounds):
        for at in range(0, len(names), 2):
            turn = [names[at], "ours", *names[at + 1 : at + 2]]
            rates = {}
            for who in reversed(turn) if number % 2 else turn:
                rates[who] = measures[who]()
                print(f"  round {number + 1}: {who} {rates[who]:,.4g}", flush=True)
            mine = rates.pop("ours")
            for name, rate in rates.items():
                found[name].append(mine / rate)
    return {name: Ratio(ratios) for name, ratios in found.items()}
