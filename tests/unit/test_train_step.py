"""What an update does besides learning."""

from contextlib import nullcontext
from itertools import repeat
from types import SimpleNamespace

import torch
from torch import nn

from distrib.images.order import Plan
from distrib.learning import engine
from distrib.learning.engine import Trainer
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.rates import Rates
from distrib.learning.state import Progress, TrainState
from distrib.lifecycle.heartbeat import Pulse
from distrib.settings import Settings


def trainer(rank: int = 0, world: int = 1) -> Trainer:
    """One whose images are nothing, and give no gradients; a batch is cut into four shares."""
    settings, network = Settings(), nn.Linear(2, 1)
    optimizer = make_optimizer(network, settings.optimization)
    reduction = SimpleNamespace(
        begin=lambda _: None, computing=lambda **_: nullcontext(), finish=lambda: torch.tensor(-1.0)
    )
    made = Trainer(
        settings=settings,
        processes=SimpleNamespace(
            device=torch.device("cpu"), accelerator=SimpleNamespace(unscale_gradients=lambda _: None)
        ),
        folder=None,
        feed=SimpleNamespace(plan=Plan(16, 8, None, rank=rank, world=world, virtual_ranks=4)),
        reduction=reduction,
        optimizer=SimpleNamespace(
            optimizer=optimizer,
            scaler=None,
            param_groups=optimizer.param_groups,
            step=optimizer.step,
            zero_grad=optimizer.zero_grad,
        ),
        state=TrainState(network, optimizer, None, None, Progress(Plateau(1, 0.1), EarlyStop(None, 0.0))),
        rates=Rates(settings.optimization, settings.schedule, 2, 8),
        journal=None,
        snapshots=SimpleNamespace(copied=lambda: None),
        stop=None,
        pulse=Pulse(),
    )
    made.forward_backward = lambda _: torch.zeros(3)
    return made


def test_a_score_is_that_of_the_weights_before_an_update_alone():
    made = trainer()
    made.state.progress.test_top1 = 0.9
    made.train_step(repeat(None))
    assert made.state.counters()["test_top1"] is None  # of a checkpoint made now
    assert made.state.progress.update == 1


def test_dropout_has_a_key_for_every_share_of_every_update(monkeypatch):
    def keys(rank: int, world: int) -> list[int]:
        seeds, made = [], trainer(rank, world)
        monkeypatch.setattr(engine, "seed_generator", lambda _, seed: seeds.append(seed))
        for _ in range(4):  # two epochs
            made.train_step(repeat(None))
        return seeds

    alone = keys(0, 1)
    assert len(set(alone)) == len(alone) == 16
    assert set(keys(0, 2) + keys(1, 2)) == set(alone)  # whoever computes it
