"""What several runs have in common, and what tells them apart: figures of each, and of the settings they stand for."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from distrib import command
from distrib.insight import findings
from distrib.insight.console import harmonic_mean
from distrib.insight.findings import Findings
from distrib.insight.history import History, load_history
from distrib.insight.summary import spent
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.opening import FREE
from distrib.settings import SettingsError

SURE = 0.95  # of an interval of confidence


@dataclass(frozen=True)
class Contender:
    """A run among others."""

    name: str
    settings: dict[str, Any]
    """By name, all of them."""
    history: History
    findings: Findings | None = None
    """What its report found out about the test images, if there is one."""

    @property
    def best(self) -> tuple[float, int]:
        """Highest test accuracy, of 1, and its epoch; (NaN, 0) where no epoch is finished."""
        scores = [(record["test_top1"], -record["epoch"]) for record in self.history.epochs]
        scored = [score for score in scores if not math.isnan(score[0])]
        top1, epoch = max(scored, default=(math.nan, 0))
        return top1, -epoch

    @property
    def final(self) -> float:
        """Test accuracy of the last epoch, of 1."""
        return self.history.epochs[-1]["test_top1"] if self.history.epochs else math.nan

    @property
    def test_images(self) -> int:
        """Number of test images."""
        return self.history.epochs[-1]["test_count"] if self.history.epochs else 0

    @property
    def seconds(self) -> float:
        """What the run took, over all its starts."""
        return spent(self.history.events)

    @property
    def images_per_second(self) -> float:
        """Mean rate of training; NaN where it is unknown."""
        rates = self.history.updates["images_per_second"]
        known = rates[~np.isnan(rates)].tolist()
        return harmonic_mean(known) if known else math.nan


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing that bears on numbers but the seed."""

    name: str
    runs: list[Contender]

    @property
    def scores(self) -> list[float]:
        """Best test accuracy of each seed, of 1: of several runs of one, which tell nothing new, the mean."""
        seeds: dict[Any, list[float]] = {}
        for run in self.runs:
            seeds.setdefault(run.settings.get("seed"), []).append(run.best[0])
        return [float(np.mean(scores)) for scores in seeds.values()]


@dataclass(frozen=True)
class Difference:
    """How much better one variant is than another: points of accuracy, and the interval that holds 95 % of chances."""

    one: str
    other: str
    points: float
    low: float
    high: float
    basis: str
    """What the interval accounts for."""

    @property
    def verdict(self) -> str:
        """In words."""
        if math.isnan(self.low):
            return "unknown"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return f"{self.one if self.points > 0 else self.other} is better"


def open_runs(paths: Iterable[Path]) -> list[Contender]:
    """The runs in these folders.

    Raises:
        SettingsError: one is no run folder.
    """
    found, places = [], list(paths)
    for path in places:
        folder = RunFolder(path)
        history = load_history(folder.journal)
        try:
            settings = command.load(folder.settings).flat()
        except OSError as error:
            raise SettingsError(f"{path} is no run folder: {folder.settings.name}: {error.strerror}") from None
        found.append(Contender(folder.name, settings, history, findings.load(folder.findings)))
    names = [run.name for run in found]
    if len(set(names)) < len(names):  # of folders of the same name, the whole paths tell which
        found = [dataclasses.replace(run, name=str(path)) for path, run in zip(places, found, strict=True)]
    return found


def differing(runs: list[Contender]) -> list[str]:
    """The names of the settings in which the runs differ, but for where they lie and how they are shown."""
    return [
        name
        for name in runs[0].settings
        if name not in FREE and len({repr(run.settings.get(name)) for run in runs}) > 1
    ]


def variants(runs: list[Contender]) -> list[Variant]:
    """The runs, together with those that differ from them in the seed alone, in their order."""
    telling = [name for name in differing(runs) if name != "seed"]
    groups: dict[tuple[str, ...], list[Contender]] = {}
    for run in runs:
        groups.setdefault(tuple(str(run.settings[name]) for name in telling), []).append(run)
    return [
        Variant(", ".join(f"{name} {value}" for name, value in zip(telling, values, strict=True)) or "all", members)
        for values, members in groups.items()
    ]


def differences(found: list[Variant]) -> list[Difference]:
    """Every pair of variants, in their order."""
    return [difference(one, other) for one, other in itertools.combinations(found, 2)]


def difference(one: Variant, other: Variant) -> Difference:
    """How much better ``one`` is than ``other``.

    With two seeds or more of each, Welch's interval of the means (https://doi.org/10.2307/2332510). With fewer, or
    where all happen to agree, nobody knows what another seed would give; the interval then has only the chance in which
    images are in the test set, and is too narrow.
    """
    first, second = (np.array(variant.scores) * 100 for variant in (one, other))
    points = float(first.mean() - second.mean())
    several = min(len(first), len(second)) > 1
    if several and not np.ptp(first) == np.ptp(second) == 0:
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(SURE)
        return Difference(one.name, other.name, points, float(interval.low), float(interval.high), "seeds")
    images = [max(variant.runs[0].test_images, 1) for variant in (one, other)]
    shares = [float(np.mean(variant.scores)) for variant in (one, other)]
    error = 100 * math.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, images, strict=True)))
    reach = float(stats.norm.ppf((1 + SURE) / 2)) * error
    basis = f"test images alone: {'seeds agree' if several else 'one seed'}"
    return Difference(one.name, other.name, points, points - reach, points + reach, basis)
