import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from distrib.images.order import Plan
from distrib.learning.divergence import Guard, finding, overflowed, poisoned, review, told
from distrib.learning.meter import Row
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.state import Progress
from distrib.settings import Optimization


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


class Learner:
    """A network with an optimizer and a guard, as the engine uses them."""

    def __init__(self, optimizer: str) -> None:
        self.network = network()
        self.optimizer = make_optimizer(self.network, Optimization(optimizer=optimizer, lr=0.01))
        self.prepared = SimpleNamespace(optimizer=self.optimizer, scaler=None, step=self.optimizer.step)
        self.guard = Guard(self.network)

    def update(self, seed: int, *, poison: float = 0.0) -> None:
        images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        self.guard.remember()
        (self.network(images).square().mean() + poison).backward()
        grads = [p.grad for p in self.network.parameters()]
        if poison:
            grads[0][0, 0, 0, 0] = poison
        norm = nn.utils.get_total_norm(grads)
        self.guard.step(self.prepared, norm)
        self.optimizer.zero_grad(set_to_none=True)

    def everything(self) -> dict[str, torch.Tensor]:
        slots = {
            f"{index}/{name}": value
            for index, parameter in enumerate(self.network.parameters())
            for name, value in self.optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor)
        }
        return copy.deepcopy(self.network.state_dict() | slots)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_bad_update_changes_nothing(optimizer: str, poison: float) -> None:
    learner = Learner(optimizer)
    for seed in range(3):
        learner.update(seed)
    before = learner.everything()
    learner.update(3, poison=poison)
    assert equal(learner.everything(), before)
    learner.update(4)
    assert not equal(learner.everything(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_bad_first_update_leaves_what_follows_as_if_it_had_not_been(optimizer: str) -> None:
    clean, disturbed = Learner(optimizer), Learner(optimizer)
    disturbed.update(9, poison=math.nan)
    for seed in range(3):
        clean.update(seed)
        disturbed.update(seed)
    assert equal(clean.everything(), disturbed.everything())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_good_updates_are_those_of_the_optimizer_alone(optimizer: str) -> None:
    learner, alone = Learner(optimizer), Learner(optimizer)
    alone.guard = SimpleNamespace(remember=lambda: None, step=lambda *_: alone.optimizer.step())
    for seed in range(3):
        learner.update(seed)
        alone.update(seed)
    assert equal(learner.everything(), alone.everything())


def test_momentum_from_zero_begins_as_torchs_own() -> None:
    ours = Learner("sgd")
    theirs = Learner("sgd")
    theirs.optimizer.state.clear()
    ours.update(0)
    theirs.update(0)
    assert equal(ours.everything(), theirs.everything())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_loss_has_bad_gradients(bad: float) -> None:
    weight = torch.ones(2, requires_grad=True)
    (poisoned(weight.sum() + bad, 0.5)).backward()  # the gradient of the sum itself is 1
    assert not weight.grad.isfinite().any()


def test_a_good_loss_is_only_scaled() -> None:
    weight = torch.ones(2, requires_grad=True)
    poisoned(weight.sum(), 0.25).backward()
    assert weight.grad.tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("scale", "ranks", "expected"),
    [(None, (), False), (65536.0, (), True), (1.0, (), True), (0.5, (), False), (65536.0, (1,), False)],
)
def test_fp16s_own_overflow_is_told_apart(scale: float | None, ranks: tuple[int, ...], *, expected: bool) -> None:
    assert overflowed(Row(1.0, 0, 1, math.inf, -1, ranks), scale) is expected


class OnApples(torch.Tensor):
    """A tensor that says that it lies on a GPU of Apple's."""

    device = torch.device("mps")


def test_fp16s_scaler_goes_on_after_an_overflow_where_the_verdict_is_waited_for() -> None:
    net = network()
    optimizer = make_optimizer(net, Optimization(lr=0.01))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def step() -> None:  # as Accelerate's optimizer does
        scaler.step(optimizer)
        scaler.update()

    prepared = SimpleNamespace(optimizer=optimizer, scaler=scaler, step=step)
    guard, before = Guard(net), copy.deepcopy(net.state_dict())
    for poison, scale in [(math.inf, 2.0), (0.0, 2.0)]:
        guard.remember()
        scaler.scale(net(torch.randn(8, 3, 8, 8)).square().mean()).backward()
        net[0].weight.grad[0, 0, 0, 0] += poison
        scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in net.parameters()])
        guard.step(prepared, norm.as_subclass(OnApples))
        assert scaler.get_scale() == scale
        assert equal(net.state_dict(), before) == bool(poison)
        optimizer.zero_grad()


def test_fp16s_scaler_skips_with_fused_optimizers_too() -> None:
    """On the CPU's scaler, as torch has one: the first update overflows, the next are those of a run without it."""
    net, plain = network(), network()
    optimizers = [make_optimizer(n, Optimization(lr=0.01)) for n in (net, plain)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scaler.scale(net(images).square().mean()).backward()
    next(net.parameters()).grad.fill_(math.inf)
    scaler.unscale_(optimizers[0])
    scaler.step(optimizers[0])
    scaler.update()
    assert scaler.get_scale() == 2.0
    optimizers[0].zero_grad(set_to_none=True)
    plain(images)  # its statistics have seen the images as well
    for _ in range(3):
        scaler.scale(net(images).square().mean()).backward()
        scaler.unscale_(optimizers[0])
        scaler.step(optimizers[0])
        scaler.update()
        plain(images).square().mean().backward()
        optimizers[1].step()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
    assert equal(net.state_dict(), plain.state_dict())


def feed(world: int) -> SimpleNamespace:
    return SimpleNamespace(seed=3, plan=Plan(64, 16, 3, rank=0, world=world))


def test_a_finding_names_the_images_of_those_who_met_it() -> None:
    whole = np.concatenate(Plan(64, 16, None, rank=0, world=1).share_of(3, 2, 1, 0)).tolist()
    found = finding(
        10, 2, Row(math.nan, 0, 16, math.nan, -1, (1,)), feed(world=2)
    )  # update 10 is the second of epoch 2
    assert found["images"] == whole[8:]
    assert (found["update"], found["ranks"]) == (10, [1])
    assert "update 10 is not finite: loss nan, gradient norm nan, on the images of rank 1" in told(found, 1)


def test_if_no_loss_was_bad_all_images_are_named() -> None:
    whole = np.concatenate(Plan(64, 16, None, rank=0, world=1).share_of(3, 2, 1, 0)).tolist()
    found = finding(10, 2, Row(8.0, 0, 16, math.inf, -1, ()), feed(world=2))
    assert found["images"] == whole
    assert "loss 0.5, gradient norm inf, on the images of 2 ranks" in told(found, 1)


def test_an_exact_run_names_virtual_ranks() -> None:
    exact = SimpleNamespace(seed=3, plan=Plan(64, 16, None, rank=0, world=2, virtual_ranks=4))
    found = finding(10, 2, Row(math.nan, 0, 16, math.nan, -1, (3,)), exact)
    assert found["images"] == np.concatenate(Plan(64, 16, None, rank=0, world=1).share_of(3, 2, 1, 0)).tolist()[12:]
    assert found["virtual_ranks"] == [3]
    assert "on the images of virtual rank 3" in told(found, 1)


def test_bad_updates_in_a_row_are_counted_also_from_one_look_to_the_next() -> None:
    good, bad = Row(8.0, 0, 16, 1.0, -1, ()), Row(math.inf, 0, 16, math.inf, -1, (0,))
    progress = Progress(Plateau(1, 0.1), EarlyStop(None, 0.0), update=4)
    assert review([good, bad, good, bad], progress, feed(world=1), None) == (
        [finding(2, 0, bad, feed(world=1)), finding(4, 0, bad, feed(world=1))],
        1,
    )
    assert progress.bad_updates == 1
    progress.update = 7
    found, streak = review([bad, bad, good], progress, feed(world=1), None)
    assert [record["update"] for record in found] == [5, 6]
    assert streak == 3  # though the last one was good
    assert progress.bad_updates == 0


@pytest.mark.parametrize(("scale", "expected"), [(2.0**16, [2]), (0.5, [1, 2])])
def test_an_overflow_is_a_bad_update_where_no_smaller_scale_would_help(scale: float, expected: list[int]) -> None:
    overflow, bad = Row(8.0, 0, 16, math.inf, -1, ()), Row(math.inf, 0, 16, math.inf, -1, (0,))
    progress = Progress(Plateau(1, 0.1), EarlyStop(None, 0.0), update=2)
    found, streak = review([overflow, bad], progress, feed(world=1), scale)
    assert [record["update"] for record in found] == expected
    assert streak == progress.bad_updates == len(expected)
