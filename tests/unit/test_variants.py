"""Comparisons: which settings differ, which runs are seeds of one variant, and when a difference is one."""

import math

import numpy as np
import pytest
from scipy import stats

from distrib.insight.comparison import Contender, Difference, Variant, difference, differing, variants
from distrib.insight.history import COLUMNS, History


def contender(name="run", top1=(0.5, 0.9, 0.8), images=10_000, **settings):
    """A run with a test accuracy for each epoch."""
    epochs = [
        {"epoch": n, "update": 10 * n, "test_top1": score, "test_count": images, "seconds": 2.0}
        for n, score in enumerate(top1, 1)
    ]
    events = [{"event": "start", "time": 0.0}, {"event": "stop", "time": 4.0}]
    events += [{"event": "resume", "time": 100.0}, {"event": "end", "time": 103.0}]
    updates = {column: np.array([100.0, 50.0, np.nan]) for column in COLUMNS}
    base = {"model": "resnet18", "lr": 0.1, "seed": 0, "name": name, "workers": 2}
    return Contender(name, base | settings, History(updates, epochs, events))


def seeds(*scores, **settings):
    """A variant with a run for each score."""
    return Variant(str(settings), [contender(top1=(score,), seed=n, **settings) for n, score in enumerate(scores)])


def test_a_run_in_figures():
    run = contender()
    assert run.best == (0.9, 2)
    assert run.final == 0.8
    assert run.seconds == 7.0  # not what lay between its starts
    assert run.images_per_second == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert contender(top1=(0.9, 0.9)).best == (0.9, 1)


def test_a_run_without_a_finished_epoch_has_no_score():
    run = contender(top1=())
    assert math.isnan(run.best[0])
    assert math.isnan(run.final)


def test_settings_that_bear_on_nothing_do_not_differ():
    runs = [contender("a", workers=1), contender("b", lr=0.2, seed=1)]
    assert differing(runs) == ["lr", "seed"]
    assert differing([contender("a"), contender("b")]) == []


def test_seeds_of_a_setting_are_one_variant():
    runs = [contender(f"{lr}-{seed}", lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in (0, 1, 2)]
    found = variants(runs)
    assert [(variant.name, len(variant.runs)) for variant in found] == [("lr 0.1", 3), ("lr 0.2", 3)]
    assert [variant.name for variant in variants(runs[:3])] == ["all"]


def test_the_interval_is_welchs():
    one, other = (0.931, 0.935, 0.938), (0.921, 0.925, 0.92)
    found = difference(seeds(*one, lr=0.1), seeds(*other, lr=0.2))
    first, second = np.array(one) * 100, np.array(other) * 100
    spread = np.sqrt(first.var(ddof=1) / 3 + second.var(ddof=1) / 3)
    freedom = spread**4 / (((first.var(ddof=1) / 3) ** 2 + (second.var(ddof=1) / 3) ** 2) / 2)
    reach = stats.t.ppf(0.975, freedom) * spread
    assert found.points == pytest.approx(first.mean() - second.mean())
    assert (found.low, found.high) == pytest.approx((found.points - reach, found.points + reach))
    assert found.basis == "seeds"
    assert found.verdict == "{'lr': 0.1} is better"


def test_a_tenth_of_a_percent_is_no_win():
    assert difference(seeds(0.931, 0.935, lr=0.1), seeds(0.930, 0.934, lr=0.2)).verdict == "no difference shown"
    assert difference(seeds(0.931, lr=0.1), seeds(0.930, lr=0.2)).verdict == "no difference shown"


def test_one_seed_has_but_the_chance_of_its_test_images():
    found = difference(seeds(0.90, lr=0.1), seeds(0.95, lr=0.2))
    reach = 1.959964 * 100 * math.sqrt((0.9 * 0.1 + 0.95 * 0.05) / 10_000)
    assert (found.low, found.high) == pytest.approx((-5 - reach, -5 + reach))
    assert found.verdict == "{'lr': 0.2} is better"
    assert "one seed" in found.basis


def test_seeds_that_agree_have_but_the_chance_of_their_test_images():
    alone = difference(seeds(0.9), seeds(0.8))
    found = difference(seeds(0.9, 0.9), seeds(0.8, 0.8))
    assert (found.points, found.low, found.high) == pytest.approx((alone.points, alone.low, alone.high))
    assert "seeds agree" in found.basis
    assert difference(seeds(0.9, 0.9), seeds(0.9, 0.9)).verdict == "no difference shown"


def test_a_seed_that_was_run_twice_counts_once():
    again = Variant("again", [contender(top1=(score,), seed=0) for score in (0.90, 0.91, 0.92)])
    assert again.scores == [pytest.approx(0.91)]
    assert "one seed" in difference(again, seeds(0.8, 0.82)).basis


def test_the_interval_does_not_depend_on_the_order_of_the_runs():
    several, one = seeds(0.90, 0.94, 0.98), seeds(0.8)
    found = difference(several, one)
    assert found == difference(Variant(several.name, several.runs[::-1]), one)
    assert (found.low + found.high) / 2 == pytest.approx(found.points) == pytest.approx(14)


def test_scores_that_are_missing_tell_nothing():
    missing = difference(seeds(math.nan), seeds(0.9))
    assert missing.verdict == "unknown"
    assert Difference("a", "b", 1, math.nan, math.nan, "").verdict == "unknown"
