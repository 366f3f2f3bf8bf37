"""What a run tells of its updates and epochs: the rates, the seconds, the losses of those that counted, the best."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from distrib.images.order import Plan
from distrib.learning.engine import Trainer
from distrib.learning.meter import Meter
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.rates import Rates
from distrib.learning.scoring import Scores
from distrib.learning.state import Progress, TrainState
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.journal import Journal
from distrib.settings import Lifecycle, Optimization, Schedule, Settings
from tests.launching import journal, updates

ALONE = SimpleNamespace(size=1, memory=None, stack=lambda tensor: tensor[None])
PER_EPOCH, EPOCHS = 4, 3


def row(loss: float = 32.0, grad_norm: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """What the meter takes of an update of 16 images, half of them hit."""
    return torch.tensor([[loss, 8.0, 16.0]]), torch.tensor(grad_norm), torch.tensor(-1.0)


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trainer]:
    """A trainer whose updates are those that a test says it made, and whose test scores never change."""
    optimization = Optimization(batch_size=16, epochs=EPOCHS, lr=0.3)
    planned = Schedule(schedule=getattr(request, "param", "constant"), plateau_patience=0)
    network, plan = nn.Linear(1, 1), Plan(16 * PER_EPOCH, 16, None, rank=0, world=1)
    progress = Progress(Plateau(planned.plateau_patience, planned.gamma), EarlyStop(None, 0.0))
    trainer = Trainer(
        settings=Settings(optimization=optimization, schedule=planned, lifecycle=Lifecycle(on_divergence="skip")),
        processes=ALONE,
        folder=RunFolder(tmp_path),
        feed=SimpleNamespace(seed=0, plan=plan),
        reduction=None,
        optimizer=None,
        state=TrainState(network, None, None, None, progress),
        rates=Rates(optimization, planned, PER_EPOCH, PER_EPOCH * EPOCHS),
        journal=Journal(tmp_path / "metrics.jsonl"),
        snapshots=SimpleNamespace(note=lambda **_: None, save=lambda **_: None),
        stop=SimpleNamespace(at_once=False),
        pulse=Pulse(),
    )
    trainer.score = lambda _: Scores(loss=1.0, top1=0.5, top5=1.0, count=10)
    yield trainer
    trainer.journal.close()


def report(made: Trainer, *rows: tuple[Tensor, Tensor, Tensor]) -> None:
    """Tell of updates."""
    for each in rows:
        made.meter.add(*each)
    made.state.progress.update += len(rows)
    made.report()


def train(made: Trainer, *rows: tuple[Tensor, Tensor, Tensor]) -> None:
    """Tell of updates and of the end of their epoch."""
    report(made, *rows)
    made.end_epoch()


def epochs(folder: Path) -> list[dict]:
    return [record for record in journal(folder) if record["kind"] == "epoch"]


@pytest.mark.parametrize("made", ["onecycle", "plateau"], indirect=True)
def test_the_journal_tells_the_rates_that_an_update_was_made_with(tmp_path: Path, made: Trainer) -> None:
    wanted = []
    for _ in range(EPOCHS):
        first, scale = made.state.progress.update, made.state.progress.plateau.scale
        steps = range(first, first + PER_EPOCH)
        wanted += [(step + 1, made.rates.lr(step, scale), made.rates.momentum(step)) for step in steps]
        train(made, *[row()] * PER_EPOCH)
    assert [(record["update"], record["lr"], record["momentum"]) for record in updates(tmp_path)] == wanted
    assert [record["lr"] for record in epochs(tmp_path)] == [lr for _, lr, _ in wanted[PER_EPOCH - 1 :: PER_EPOCH]]
    assert len({lr for _, lr, _ in wanted}) > 1


def test_the_seconds_of_an_epoch_are_those_of_training_too_and_of_no_other_epoch(tmp_path: Path, made: Trainer) -> None:
    for seconds in (2000, 1000):
        made.meter.started -= seconds
        report(made, row())
    made.end_epoch()
    train(made, row())
    first, second = epochs(tmp_path)
    assert first["seconds"] >= 3000
    assert second["seconds"] < 1000


def test_an_update_that_was_left_out_is_in_no_mean_of_its_epoch(tmp_path: Path, made: Trainer) -> None:
    train(made, row(32.0), row(math.nan, math.nan), row(64.0), row(1e30, math.inf))
    (epoch,) = epochs(tmp_path)
    assert (epoch["train_loss"], epoch["train_top1"]) == (3.0, 0.5)
    assert [record["update"] for record in journal(tmp_path) if record.get("event") == "skip"] == [2, 4]


def test_an_epoch_as_good_as_the_best_is_not_the_best(tmp_path: Path, made: Trainer) -> None:
    for _ in range(EPOCHS):
        train(made, row())
    assert [record["epoch"] for record in journal(tmp_path) if record.get("event") == "best"] == [1]


def test_the_time_waited_for_data_is_told_once() -> None:
    meter = Meter(ALONE)
    meter.waited = 1e9
    meter.add(*row())
    assert meter.look()[2] == 1.0
    meter.add(*row())
    assert meter.look()[2] == 0.0
