from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distrib.learning.muon import Muon, orthogonal
from distrib.learning.optimizers import make_optimizer, optimizer_tensors, set_rates
from distrib.settings import Optimization


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5)
    )


def made(net: nn.Module, **settings: Any) -> Muon:
    optimizer = make_optimizer(net, Optimization(optimizer="muon", lr=0.2, momentum=0.6, **settings))
    assert isinstance(optimizer, Muon)
    return optimizer


def gradients(net: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=draw))


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_orthogonal_step_has_the_directions_of_the_matrix_and_sizes_near_1(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(side, min(shape), generator=draw))[0] for side in shape)
    sizes = torch.linspace(0.5, 2.0, min(shape))
    found = orthogonal(left @ sizes.diag() @ right.T, dtype)
    assert found.shape == shape
    assert found.dtype == torch.float32
    inside = left.T @ found @ right
    tolerance = 1e-4 if dtype is torch.float32 else 0.05
    assert (inside - inside.diag().diag()).abs().max() < tolerance
    assert 0.5 < inside.diag().min() <= inside.diag().max() < 1.3


def test_small_gradients_are_as_good_in_fp16() -> None:
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix * 1e-9, torch.float16)
    assert (found - orthogonal(matrix, torch.float32)).abs().max() < 0.01


def by_hand(weight: Tensor, grads: list[Tensor], lr: float, momentum: float) -> Tensor:
    """Muon as its authors describe it, one weight and one update at a time."""
    buffer = torch.zeros_like(weight)
    for grad in grads:
        buffer = momentum * buffer + grad
        step = grad + momentum * buffer
        weight = weight * (len(weight) ** 0.5 / weight.norm())
        weight = weight - lr * orthogonal(step.reshape(len(step), -1), torch.float32).view_as(weight)
    return weight


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_filters_move_by_muon_and_the_rest_by_sgd(memory: torch.memory_format) -> None:
    net, other = network().to(memory_format=memory), network()  # type: ignore[call-overload]
    optimizer = made(net, weight_decay=0.01)
    sgd = make_optimizer(other, Optimization(lr=0.2, momentum=0.6, nesterov=True, weight_decay=0.01))
    first, seen = net[0].weight.detach().clone(), []
    for seed in range(4):
        for one, its in ((net, optimizer), (other, sgd)):
            gradients(one, seed)
            set_rates(its, 0.1, 0.6)
            its.step()
        gradients(net, seed)
        seen.append(net[0].weight.grad.clone())
    torch.testing.assert_close(net[0].weight.detach(), by_hand(first, seen, 0.1, 0.6))
    for name, parameter in net.named_parameters():
        if name != "0.weight":
            assert torch.equal(parameter, other.get_parameter(name)), name
    assert {"0.weight/momentum_buffer", "4.bias/momentum_buffer"} <= set(optimizer_tensors(net, optimizer))


def test_an_update_that_is_not_finite_leaves_everything_as_it_was() -> None:
    net = network()
    optimizer = made(net)
    for seed in range(2):
        gradients(net, seed)
        optimizer.step()
    tensors = dict(net.named_parameters()) | optimizer_tensors(net, optimizer)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    gradients(net, 2)
    net[0].weight.grad[0, 0, 0, 0] = torch.nan
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]), name
    optimizer.found_inf = torch.tensor(0.0)
    gradients(net, 2)
    optimizer.step()
    assert not torch.equal(net[0].weight, before["0.weight"])


def test_filters_of_zeros_begin_to_move() -> None:
    net = network()
    torch.nn.init.zeros_(net[0].weight)
    optimizer = made(net)
    for seed in range(2):
        gradients(net, seed)
        optimizer.step()
    assert net[0].weight.isfinite().all()
    assert net[0].weight.any()
