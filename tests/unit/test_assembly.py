from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import config

from distrib.assembly import make_network
from distrib.images.growth import Growth
from distrib.settings import Augmentation, Compute, Model, Settings, SettingsError


def made(name: str, *, size: int, first: int, compute: Compute | None = None, **model: Any) -> nn.Module:
    """The network of a run whose images grow from ``first`` to ``size`` pixels."""
    settings = Settings(model=Model(model=name, **model), compute=compute or Compute())
    growth = Growth.of(Augmentation(start_size=first), size=size, updates=100)
    feed: Any = SimpleNamespace(preprocessing=SimpleNamespace(size=size, classes=("cat", "dog")), growth=growth)
    return make_network(settings, feed, torch.device("cpu"), fresh=True)


@pytest.mark.parametrize(("name", "size", "first"), [("torchvision/vit_b_16", 64, 32), ("speednet", 32, 12)])
def test_images_do_not_begin_smaller_than_the_network_takes(name: str, size: int, first: int) -> None:
    with pytest.raises(SettingsError, match=f"--start-size {first}: {name} takes no images of that size"):
        made(name, size=size, first=first)


def test_first_weights_do_not_depend_on_the_size_that_images_begin_with() -> None:
    for one, other in zip(
        made("resnet20", size=32, first=32).parameters(), made("resnet20", size=32, first=16).parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_every_size_has_its_graph() -> None:
    with config.patch(recompile_limit=8):
        made("simplecnn", size=64, first=16, compute=Compute(compile="default"), width=4)
        assert config.recompile_limit >= 2 * 13


def gradients(network: nn.Module, images: Tensor) -> Tensor:
    """Those of all parameters, computed in bf16, in one row."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(images), torch.arange(len(images)) % 2)
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


@pytest.mark.slow  # half a minute, for the compiler
def test_compiled_gradients_are_those_of_the_network() -> None:
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, compiled = (
        gradients(made("speednet", size=16, first=16, compute=Compute(compile=mode), width=8), images)
        for mode in ("none", "default")
    )
    assert F.cosine_similarity(plain, compiled, dim=0) > 0.99
