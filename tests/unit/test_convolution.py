"""Gradients of convolutions as matrix products: the same as PyTorch's, but for the rounding of bf16."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from distrib import assembly
from distrib.images.growth import Growth
from distrib.learning import convolution
from distrib.learning.convolution import TILES, VECTORS, Reach, SmallConvolution, by_products, patches, tap_by_tap
from distrib.settings import Compute, Model, Settings

DEEP = 16  # channels
REACH = Reach(places=36, strided=16, wide=math.inf, tapped=25, deep=DEEP)
CASES = {
    "3x3": (nn.Conv2d(8, 12, 3, padding=1), 5),
    "without a margin": (nn.Conv2d(8, 12, 3), 6),
    "stride": (nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), 7),
    "1x1": (nn.Conv2d(8, 12, 1, stride=2, bias=False), 8),
    "oblong": (nn.Conv2d(8, 12, (1, 5), stride=(2, 1), padding=(0, 2)), 5),
    "deep": (nn.Conv2d(8, DEEP, 3, padding=1, bias=False), 4),
    "deep and 1x1": (nn.Conv2d(8, DEEP, 1), 4),
    "deep without a margin": (nn.Conv2d(8, DEEP, (3, 2)), 4),
    "deep with unequal margins": (nn.Conv2d(8, DEEP, 3, padding=(0, 1)), 5),
    "deep with a stride": (nn.Conv2d(8, DEEP, 3, stride=2, padding=1), 4),
    "one place": (nn.Conv2d(8, 12, 3, padding=1), 1),
    "taps that see none": (nn.Conv2d(8, 12, (7, 4), padding=(3, 2)), 2),
}


def learned(layer: nn.Conv2d, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What it returns, and the gradients of the images and of its parameters."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(images)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(memory_format=torch.channels_last)
    (out.float() * weights).sum().backward()
    return out, [images.grad, *(parameter.grad for parameter in layer.parameters())]


def both(layer: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The layer as PyTorch's, and as ours."""
    theirs = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    by_products(ours, REACH)
    assert type(ours) is SmallConvolution
    return theirs, ours


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_pytorch_and_outputs_are_its_own(name, wide, monkeypatch):
    layer, side = CASES[name]
    used = []
    for way in (patches, tap_by_tap):
        monkeypatch.setattr(convolution, way.__name__, lambda *a, way=way: used.append(way) or way(*a))
    images = torch.randn(3, 8, side, side, generator=torch.Generator().manual_seed(0))
    theirs, ours = both(layer)
    ours.reach = replace(REACH, wide=layer.in_channels * layer.out_channels + (not wide))
    expected, gradients = learned(theirs, images.to(memory_format=torch.channels_last))
    out, found = learned(ours, images.to(memory_format=torch.channels_last))
    assert torch.equal(out, expected)
    of_images = [patches] if layer.out_channels >= DEEP and layer.stride == (1, 1) else []
    assert used == [*of_images, tap_by_tap if wide and layer.stride == (1, 1) else patches]
    for mine, other in zip(found, gradients, strict=True):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.01 * other.abs().max().item())
        assert (mine - other).norm() < 0.005 * other.norm()


def test_gradients_lie_in_memory_as_their_weights_do():
    _, ours = both(nn.Conv2d(8, 12, 3, padding=1))
    learned(ours, torch.randn(2, 8, 4, 4))
    assert ours.weight.grad.stride() == ours.weight.stride()


@pytest.mark.parametrize("reason", ["large", "large and wide", "large with a stride", "fp32", "evaluation"])
def test_elsewhere_it_is_pytorchs_convolution(reason, monkeypatch):
    monkeypatch.setattr(convolution, "_Products", None)
    theirs, ours = both(nn.Conv2d(8, 12, 3, padding=1, stride=2 if reason == "large with a stride" else 1))
    if reason == "large and wide":
        ours.reach = replace(REACH, wide=8 * 12)
    side = {"large": 7, "large with a stride": 10}.get(reason, 6)
    images = torch.randn(2, 8, side, side)
    with torch.set_grad_enabled(reason != "evaluation"), torch.autocast("cpu", enabled=reason != "fp32"):
        assert torch.equal(ours(images), theirs(images))
        if reason != "evaluation":
            ours(images).sum().backward()
            assert ours.weight.grad is not None


def test_frozen_weights_get_no_gradient():
    _, ours = both(nn.Conv2d(8, 12, 3, padding=1))
    ours.weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        ours(torch.randn(2, 8, 4, 4)).sum().backward()
    assert ours.weight.grad is None
    assert ours.bias.grad is not None


def test_what_has_no_such_patches_is_left_alone():
    left = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 1, padding=1),
        nn.ConvTranspose2d(8, 8, 3),
    )
    names = list(left.state_dict())
    by_products(left, REACH)
    assert not any(isinstance(module, SmallConvolution) for module in left)
    assert list(left.state_dict()) == names


def test_patches_hold_what_each_place_sees():
    images = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).view(2, 3, 5, 4).to(memory_format=torch.channels_last)
    found = patches(images, (3, 2), (2, 1), (1, 0))
    expected = nn.functional.unfold(images, (3, 2), padding=(1, 0), stride=(2, 1))  # (N, C * 6, places)
    assert torch.equal(found.view(2, 9, 6, 3), expected.view(2, 3, 6, 9).permute(0, 3, 2, 1))


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"amx_bf16": True, "avx512_bf16": True}, TILES), ({"amx_bf16": False, "avx512_bf16": True}, VECTORS), ({}, None)],
)
def test_where_products_are_faster_is_a_matter_of_the_cpu(able, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert convolution.on_this_cpu() is expected


def test_gradients_of_images_are_products_where_some_cpu_is_faster_so(monkeypatch):
    used = []
    monkeypatch.setattr(convolution, "of_images", lambda *a: used.append(a))
    for deep, expected in ((DEEP, 1), (math.inf, 0)):
        used.clear()
        layer = nn.Conv2d(8, DEEP, 3)
        by_products(layer, replace(REACH, deep=deep))
        learned(layer, torch.randn(2, 8, 4, 4))
        assert len(used) == expected


@pytest.mark.parametrize(
    ("reach", "compute", "expected"),
    [
        (VECTORS, {}, True),
        (None, {}, False),
        (VECTORS, {"channels_last": False}, False),
        (VECTORS, {"compile": "default"}, False),
    ],
)
def test_a_run_learns_so_where_it_is_faster(reach, compute, expected, monkeypatch):
    monkeypatch.setattr(convolution, "on_this_cpu", lambda: reach)
    settings = Settings(model=Model(model="simplecnn", width=4), compute=Compute(**compute))
    growth = Growth.of(settings.augmentation, size=16, updates=1)
    feed = SimpleNamespace(preprocessing=SimpleNamespace(size=16, classes=("cat", "dog")), growth=growth)
    network = assembly.make_network(settings, feed, torch.device("cpu"), fresh=True)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert {getattr(module, "reach", None) for module in convolutions} == {reach if expected else None}
