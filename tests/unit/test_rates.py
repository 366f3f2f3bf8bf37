import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.rates import Rates
from distrib.settings import Optimization, Schedule

PER_EPOCH, EPOCHS, PEAK = 7, 12, 0.3
TOTAL = PER_EPOCH * EPOCHS


def rates(**schedule: Any) -> Rates:
    return Rates(Optimization(lr=PEAK, epochs=EPOCHS), Schedule(**schedule), PER_EPOCH, TOTAL)


def optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)


def played(scheduler: Any, updates: int) -> list[tuple[float, float]]:
    """Learning rate and momentum of every update that torch's scheduler would give."""
    group, found = scheduler.optimizer.param_groups[0], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch complains of the optimizer that never steps
        for _ in range(updates):
            found.append((float(group["lr"]), float(group["momentum"])))
            scheduler.step()
    return found


def close(ours: list[float], torchs_own: list[float]) -> bool:
    assert len(ours) == len(torchs_own)
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in zip(ours, torchs_own, strict=True))


def lrs(made: Rates, first: int = 0) -> list[float]:
    return [made.lr(step) for step in range(first, TOTAL)]


def after_warmup(schedule: str, updates: int) -> Any:
    """Torch's scheduler of what is left after the warm-up."""
    match schedule:
        case "cosine":
            return torchs.CosineAnnealingLR(optimizer(), updates, eta_min=0.01)
        case "linear":
            return torchs.LinearLR(optimizer(), 1.0, 0.01 / PEAK, updates)
        case "restarts":
            return torchs.CosineAnnealingWarmRestarts(optimizer(), 2 * PER_EPOCH, T_mult=2, eta_min=0.01)
        case _:
            return torchs.ConstantLR(optimizer(), factor=1.0)


SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"min_lr": 0.01},
    "linear": {"min_lr": 0.01},
    "restarts": {"min_lr": 0.01, "restart_epochs": 2, "restart_multiplier": 2},
    "constant": {},
}


@pytest.mark.parametrize("warmup", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("schedule", ["cosine", "restarts", "constant"])
def test_a_schedule_is_torchs_after_its_warm_up(schedule: str, warmup: float) -> None:
    made = rates(schedule=schedule, warmup_epochs=warmup, **SCHEDULES[schedule])
    assert made.warmup == round(warmup * PER_EPOCH)
    oracle = played(after_warmup(schedule, TOTAL - made.warmup), TOTAL - made.warmup)
    assert close(lrs(made, made.warmup), [lr for lr, _ in oracle])
    assert {made.momentum(step) for step in range(TOTAL)} == {0.9}


@pytest.mark.parametrize("pct_start", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_onecycle_is_torchs_in_rate_and_momentum(pct_start: float, warmup: float) -> None:
    made = rates(schedule="onecycle", pct_start=pct_start, warmup_epochs=warmup)
    left = TOTAL - made.warmup
    scheduler = torchs.OneCycleLR(optimizer(), PEAK, total_steps=left, pct_start=pct_start)
    group, oracle = scheduler.optimizer.param_groups[0], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(left):
            oracle.append((float(group["lr"]), float(group["momentum"])))
            if step < left - 1:  # torch counts the updates, and refuses one more
                scheduler.step()
    assert close(lrs(made, made.warmup), [lr for lr, _ in oracle])
    assert close([made.momentum(step) for step in range(made.warmup, TOTAL)], [momentum for _, momentum in oracle])


def test_multistep_is_torchs() -> None:
    scheduler = torchs.MultiStepLR(optimizer(), [3 * PER_EPOCH, 5 * PER_EPOCH, 11 * PER_EPOCH], gamma=0.2)
    made = rates(schedule="multistep", milestones=(3, 5, 11), gamma=0.2)
    assert close(lrs(made), [lr for lr, _ in played(scheduler, TOTAL)])


def test_milestones_count_from_the_runs_start_also_after_a_warm_up() -> None:
    plain = rates(schedule="multistep", milestones=(3, 5))
    warmed = rates(schedule="multistep", milestones=(3, 5), warmup_epochs=2.0)
    assert lrs(warmed, 2 * PER_EPOCH) == lrs(plain, 2 * PER_EPOCH)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "restarts", "constant", "plateau"])
@pytest.mark.parametrize("warmup", [1.0, 2.5])
def test_the_warm_up_is_torchs(schedule: str, warmup: float) -> None:
    made = rates(schedule=schedule, warmup_epochs=warmup)
    scheduler = torchs.LinearLR(optimizer(), start_factor=0.01, total_iters=made.warmup)
    oracle = [lr for lr, _ in played(scheduler, made.warmup)]
    assert close([made.lr(step) for step in range(made.warmup)], oracle)


def test_warm_up_and_cosine_are_torchs_sequence() -> None:
    made = rates(schedule="cosine", warmup_epochs=2.0, min_lr=0.01)
    shared = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [
            torchs.LinearLR(shared, start_factor=0.01, total_iters=made.warmup),
            torchs.CosineAnnealingLR(shared, TOTAL - made.warmup, eta_min=0.01),
        ]
        sequence = torchs.SequentialLR(shared, parts, milestones=[made.warmup])
    assert close(lrs(made), [lr for lr, _ in played(sequence, TOTAL)])


@examples(max_examples=150, deadline=None)
@given(
    schedule=st.sampled_from(["onecycle", "cosine", "linear", "restarts", "plateau", "constant"]),
    per_epoch=st.integers(1, 9),
    epochs=st.integers(1, 9),
    warmup=st.floats(0, 0.99),
    pct_start=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.9]),
)
def test_every_update_of_any_run_has_a_rate(
    schedule: str, per_epoch: int, epochs: int, warmup: float, pct_start: float
) -> None:
    planned = Schedule(schedule=schedule, warmup_epochs=warmup * epochs, pct_start=pct_start, restart_epochs=2)
    made = Rates(Optimization(lr=PEAK, epochs=epochs), planned, per_epoch, per_epoch * epochs)
    for step in range(made.total):
        assert 0 < made.lr(step) <= PEAK * (1 + 1e-12)
        assert 0.85 - 1e-12 <= made.momentum(step) <= 0.95 + 1e-12


@pytest.mark.parametrize("patience", [0, 2, 3])
@pytest.mark.parametrize("low", [0.0, 0.004])
@pytest.mark.parametrize("first", [2.0, math.nan])
def test_plateau_is_torchs(patience: int, low: float, first: float) -> None:
    shared = optimizer()
    scheduler = torchs.ReduceLROnPlateau(shared, factor=0.2, patience=patience, min_lr=low, eps=0)
    made = rates(schedule="plateau", gamma=0.2, plateau_patience=patience, min_lr=low)
    plateau = Plateau(patience, 0.2)
    losses = [
        first,
        1.5,
        1.49999,
        1.6,
        1.4,
        1.4,
        1.4,
        float("nan"),
        1.4,
        1.39,
        1.5,
        1.5,
        1.5,
        1.5,
        1.5,
        1.5,
        0.9,
        1,
        1,
        1,
    ]
    for loss in losses:
        assert math.isclose(made.lr(0, plateau.scale), shared.param_groups[0]["lr"], rel_tol=1e-9)
        scheduler.step(loss)
        plateau.observe(loss)
    assert plateau.scale < 1


def test_early_stop_waits_for_its_patience() -> None:
    stop = EarlyStop(patience=2, delta=0.01)
    spent = []
    for top1 in (0.5, 0.505, 0.52, 0.52, 0.53, 0.6, 0.1, 0.609):
        stop.observe(top1)
        spent.append(stop.spent)
    assert spent == [False, False, False, False, True, False, False, True]


def test_early_stop_compares_with_the_best_not_the_last() -> None:
    stop = EarlyStop(patience=3, delta=0.0)
    for top1 in (0.5, 0.1, 0.2, 0.3):
        stop.observe(top1)
    assert stop.spent
    assert stop.best == 0.5


def test_without_patience_nothing_stops() -> None:
    stop = EarlyStop(patience=None, delta=0.0)
    for _ in range(100):
        stop.observe(0.1)
    assert not stop.spent
