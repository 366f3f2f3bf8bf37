"""What a finished run amounts to, in words: its best epoch, over-fitting, its cost and what to type next."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

OVERFITTED = 10.0
"""Points of accuracy by which training is ahead of testing when a run counts as over-fitted."""
MILDLY_OVERFITTED = 5.0
"""The same, for mild over-fitting."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run went. Accuracies are fractions of 1, differences are points (hundredths) of accuracy."""

    gap: float
    """Training accuracy less test accuracy at the last epoch, points."""
    best_epoch: int
    """Epoch of the highest test accuracy, the first of equals."""
    best_top1: float
    """Test accuracy of that epoch, of 1."""
    gain: float
    """Best test accuracy less that of the first epoch, points."""

    @property
    def overfitting(self) -> str:
        """``yes``, ``mild``, ``no``, or ``unknown`` where an accuracy is not a number."""
        if math.isnan(self.gap):
            return "unknown"
        if self.gap > OVERFITTED:
            return "yes"
        return "mild" if self.gap > MILDLY_OVERFITTED else "no"

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as pairs of a name and a text."""
        return [
            ("best test accuracy", f"{100 * self.best_top1:.2f} % (epoch {self.best_epoch})"),
            ("gain over the first epoch", f"{self.gain:+.2f} points"),
            ("train-test gap at the end", "unknown" if math.isnan(self.gap) else f"{self.gap:+.2f} points"),
            ("over-fitting", self.overfitting),
        ]


def verdict(epochs: list[dict[str, Any]]) -> Verdict:
    """Judge a run by its epoch records, in order. Raises ``ValueError`` where there are none."""
    if not epochs:
        raise ValueError("a run without a finished epoch has no verdict")
    best = max(epochs, key=lambda epoch: finite_or_least(epoch["test_top1"]))
    last = epochs[-1]
    return Verdict(
        gap=100 * (last["train_top1"] - last["test_top1"]),
        best_epoch=best["epoch"],
        best_top1=best["test_top1"],
        gain=100 * (best["test_top1"] - epochs[0]["test_top1"]),
    )


def spent(events: list[dict[str, Any]]) -> float:
    """Seconds that a run took, over all its starts, from its event records; without what lay in between."""
    stamps = [(event["event"], event["time"]) for event in events if "time" in event and event["event"] != "report"]
    return sum(then[1] - now[1] for now, then in pairwise(stamps) if then[0] not in ("start", "resume"))


def finite_or_least(value: float) -> float:
    """Return the value, or minus infinity for NaN, which ``max`` would otherwise take if it came first."""
    return -math.inf if math.isnan(value) else value


def summarize(
    epochs: list[dict[str, Any]], *, seconds: float, images_per_second: float, commands: list[tuple[str, str]]
) -> str:
    """Return the closing text of a run.

    ``seconds`` is what the whole run took, ``images_per_second`` its mean rate, and ``commands`` holds pairs of a
    purpose and the exact command to type. A run without a finished epoch gets no verdict.
    """
    facts = verdict(epochs).rows() if epochs else [("epochs", "none finished")]
    facts += [("total time", duration(seconds)), ("mean rate", f"{images_per_second:,.0f} images/s")]
    return "\n".join(aligned(facts) + (["", *aligned(commands)] if commands else []))


def aligned(rows: list[tuple[str, str]]) -> list[str]:
    """Return a line per pair, the second parts one below the other."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def columns(lines: list[tuple[str, ...]]) -> list[str]:
    """Return a line per row of cells, the columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def duration(seconds: float) -> str:
    """Return a time in seconds as people say it: ``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
