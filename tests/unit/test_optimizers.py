from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distrib.learning.optimizers import (
    clip_gradients,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)
from distrib.settings import Optimization


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5)
    )
    return made.to(memory_format=torch.channels_last)


def batch(step: int) -> Tensor:
    made = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    return made.to(memory_format=torch.channels_last)


def learn(net: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        net(batch(step)).square().mean().backward()
        optimizer.step()


class Unscaling:
    """What clipping needs of Accelerate: brings scaled gradients back, and counts how often."""

    def __init__(self, scaler: torch.amp.GradScaler | None = None) -> None:
        self.scaler, self.calls = scaler, 0

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        self.calls += 1
        if self.scaler:
            self.scaler.unscale_(optimizer)


def decays(net: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    names = {parameter: name for name, parameter in net.named_parameters()}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_norms_and_biases_decay_only_if_asked(kind: Any) -> None:
    net = network()
    everything = make_optimizer(net, Optimization(optimizer=kind, weight_decay=0.1))
    assert decays(net, everything) == dict.fromkeys(("0.weight", "1.weight", "1.bias", "4.weight", "4.bias"), 0.1)
    some = make_optimizer(net, Optimization(optimizer=kind, weight_decay=0.1, decay_norms=False))
    assert decays(net, some) == {"0.weight": 0.1, "1.weight": 0, "1.bias": 0, "4.weight": 0.1, "4.bias": 0}


def test_frozen_parameters_are_left_alone() -> None:
    net = network()
    net[0].weight.requires_grad_(requires_grad=False)
    assert "0.weight" not in decays(net, make_optimizer(net, Optimization()))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Optimization(nesterov=True, momentum=0.8), torch.optim.SGD),
        (Optimization(optimizer="adam", momentum=0.8), torch.optim.Adam),
        (Optimization(optimizer="adamw", momentum=0.8), torch.optim.AdamW),
    ],
)
def test_an_optimizer_is_what_was_asked_for(settings: Optimization, kind: type[Optimizer]) -> None:
    made = make_optimizer(network(), settings)
    assert type(made) is kind
    for group in made.param_groups:
        assert group["lr"] == settings.lr
        if kind is torch.optim.SGD:
            assert (group["momentum"], group["nesterov"]) == (0.8, True)
        else:
            assert group["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_rates_reach_every_group(kind: Any) -> None:
    made = make_optimizer(network(), Optimization(optimizer=kind))
    set_rates(made, 0.25, 0.7)
    assert len(made.param_groups) == 2
    for group in made.param_groups:
        assert group["lr"] == 0.25
        assert group["momentum"] == 0.7 if kind == "sgd" else group["betas"] == (0.7, 0.999)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "muon"])
def test_biases_may_have_a_rate_of_their_own(kind: Any) -> None:
    net = network()
    settings = Optimization(optimizer=kind, lr=0.1, bias_lr=6.4)
    made = make_optimizer(net, settings)
    set_rates(made, 0.05, 0.7)  # half of the peak
    names = {parameter: name for name, parameter in net.named_parameters()}
    lrs = {names[p]: group["lr"] for group in made.param_groups for p in group["params"]}
    assert lrs == pytest.approx({"0.weight": 0.05, "1.weight": 3.2, "1.bias": 3.2, "4.weight": 0.05, "4.bias": 3.2})


def with_gradients(seed: int = 0) -> nn.Module:
    net = network()
    torch.manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    return net


@pytest.mark.parametrize(("norm", "value"), [(None, None), (0.5, None), (None, 0.01), (2.0, 0.01), (1e9, None)])
def test_clipping_is_torchs_norm_first_then_value(norm: float | None, value: float | None) -> None:
    ours, by_hand = with_gradients(), with_gradients()
    accelerator = Unscaling()
    optimizer = make_optimizer(ours, Optimization())
    before = clip_gradients(accelerator, optimizer, ours.parameters(), max_norm=norm, max_value=value)
    expected = torch.cat([p.grad.flatten() for p in by_hand.parameters()]).norm()
    if norm is not None:
        nn.utils.clip_grad_norm_(by_hand.parameters(), norm)
    if value is not None:
        nn.utils.clip_grad_value_(by_hand.parameters(), value)
    assert before.item() == pytest.approx(expected.item(), rel=1e-5)
    assert accelerator.calls == 1
    for mine, theirs in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_parameters_without_a_gradient_are_passed_over() -> None:
    net = with_gradients()
    net[0].weight.grad = None
    optimizer = make_optimizer(net, Optimization())
    clip_gradients(Unscaling(), optimizer, net.parameters(), max_norm=0.1, max_value=0.1)
    assert net[0].weight.grad is None


def test_scaled_gradients_are_brought_back_once_before_clipping() -> None:
    plain, scaled = network(), network()
    expected = make_optimizer(plain, Optimization(lr=0.5))
    plain(batch(0)).square().mean().backward()
    clip_gradients(Unscaling(), expected, plain.parameters(), max_norm=0.02, max_value=0.005)
    expected.step()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    accelerator = Unscaling(scaler)
    optimizer = make_optimizer(scaled, Optimization(lr=0.5))
    scaler.scale(scaled(batch(0)).square().mean()).backward()
    norm = clip_gradients(accelerator, optimizer, scaled.parameters(), max_norm=0.02, max_value=0.005)
    scaler.step(optimizer)
    scaler.update()

    assert accelerator.calls == 1
    assert norm < 100  # that of the true gradients, not of a thousand times as much
    for mine, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    assert all(p.grad.abs().max() <= 0.005 for p in scaled.parameters())


def test_an_overflow_is_seen_in_the_norm_and_skipped() -> None:
    net = network()
    before = deepcopy(net.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = make_optimizer(net, Optimization())
    scaler.scale(net(batch(0)).square().mean()).backward()
    net[4].weight.grad[0, 0] = float("inf")
    norm = clip_gradients(Unscaling(scaler), optimizer, net.parameters(), max_norm=1.0, max_value=None)
    scaler.step(optimizer)
    scaler.update()
    assert not norm.isfinite()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    "settings",
    [
        Optimization(optimizer="sgd", lr=0.05, decay_norms=False),
        Optimization(optimizer="sgd", lr=0.05, nesterov=True),
        Optimization(optimizer="adam", lr=0.01),
        Optimization(optimizer="adamw", lr=0.01, weight_decay=0.1, decay_norms=False),
    ],
)
def test_an_optimizer_that_was_saved_goes_on_bit_for_bit(settings: Optimization) -> None:
    net = network()
    optimizer = make_optimizer(net, settings)
    learn(net, optimizer, range(4))
    # as a file keeps them: copies in plain memory order
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
    slots = {name: tensor.detach().clone().contiguous() for name, tensor in optimizer_tensors(net, optimizer).items()}

    restored = network()
    restored.load_state_dict(weights)
    again = make_optimizer(restored, settings)
    load_optimizer_tensors(restored, again, slots)
    for mine, theirs in zip(restored.parameters(), net.parameters(), strict=True):
        for slot, tensor in optimizer.state[theirs].items():
            found = again.state[mine][slot]
            assert torch.equal(found, tensor)
            assert found.stride() == tensor.stride()
            assert found.dtype == tensor.dtype

    learn(net, optimizer, range(4, 8))
    learn(restored, again, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), restored.parameters(), strict=True))
    after = optimizer_tensors(restored, again)
    assert all(torch.equal(tensor, after[name]) for name, tensor in optimizer_tensors(net, optimizer).items())


def test_slots_are_named_by_their_parameters() -> None:
    net = network()
    optimizer = make_optimizer(net, Optimization())
    optimizer.state.clear()
    assert optimizer_tensors(net, optimizer) == {}
    learn(net, optimizer, range(1))
    assert set(optimizer_tensors(net, optimizer)) == {f"{name}/momentum_buffer" for name, _ in net.named_parameters()}
