"""Facts about networks, and the command that prints them."""

import pytest
import torch
from torch import nn

from distrib.settings import Model
from distrib.zoo import anatomy, listing, registry


def outline(name: str, image_size: int = 32) -> nn.Module:
    return registry.blueprint(Model(model=name), classes=10, image_size=image_size)


@pytest.fixture
def small() -> nn.Module:
    return registry.build(Model(model="simplecnn", width=4), classes=10, image_size=32)


def test_flops_of_resnet18():
    assert anatomy.forward_flops(outline("resnet18"), 32) == pytest.approx(1.11e9, rel=0.005)


def test_flops_are_two_for_each_multiply_add(small):
    convolutions = 4 * 27 * 32**2 + 8 * 36 * 16**2 + 16 * 72 * 8**2 + 32 * 144 * 4**2
    assert anatomy.forward_flops(small, 32) == 2 * (convolutions + 32 * 10)


def test_layers_in_order_of_execution(small):
    rows = anatomy.layers(small, 32)
    assert rows[0] == anatomy.Layer("stem.0", "Conv2d", (4, 32, 32), 108)
    assert rows[2] == anatomy.Layer("stem.2", "MaxPool2d", (4, 16, 16), 0)
    assert rows[-1] == anatomy.Layer("fc", "Linear", (10,), 330)
    assert len(rows) == 4 * 3 + 3 + 1


@pytest.mark.parametrize("name", ["resnet50", "plain18", "resnet20", "torchvision/vit_b_32", "torchvision/swin_t"])
def test_rows_and_components_add_up(name):
    net = outline(name)
    assert sum(layer.parameters for layer in anatomy.layers(net, 32)) == anatomy.parameters(net)
    assert sum(anatomy.components(net).values()) == anatomy.parameters(net)


def test_components_bear_names_people_use():
    stages = ["stage 1", "stage 2", "stage 3", "stage 4"]
    for name in ("resnet18", "torchvision/resnet18"):
        assert list(anatomy.components(outline(name))) == ["stem", *stages, "classifier"]
    assert list(anatomy.components(outline("resnet9"))) == ["stem", *stages[:3], "classifier"]
    assert anatomy.components(outline("resnet18"))["stem"] == 3 * 64 * 9 + 2 * 64


def test_trainable_parameters(small):
    small.fc.requires_grad_(False)
    assert anatomy.parameters(small) - anatomy.parameters(small, trainable=True) == 330


def test_memory(small):
    memory = anatomy.memory(small, 32, batch_size=10)
    assert memory.parameters == pytest.approx(anatomy.parameters(small) * 4e-6)
    before, after = 4 * 32**2 + 8 * 16**2 + 16 * 8**2, 4 * 16**2 + 8 * 8**2 + 16 * 4**2  # convolution, norm; pool, ReLU
    elements = 2 * before + 2 * after + 3 * 32 * 4**2 + 10
    assert memory.activations == pytest.approx(elements * 4e-6)
    assert memory.training == pytest.approx(3 * memory.parameters + 10 * memory.activations)


def test_looking_changes_nothing(small):
    small.stem.eval()
    before = {key: value.clone() for key, value in small.state_dict().items()}
    anatomy.layers(small, 32)
    anatomy.gradient_norms(small, 32, 10)
    assert all(torch.equal(before[key], value) for key, value in small.state_dict().items())
    assert small.training
    assert not small.stem.training
    assert not any(module._forward_hooks for module in small.modules())
    assert all(p.grad is None for p in small.parameters())


def test_gradient_norms_are_the_gradients(small):
    norms = anatomy.gradient_norms(small, 32, 10)
    assert norms == anatomy.gradient_norms(small, 32, 10)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=generator).requires_grad_()
    labels = torch.randint(10, (8,), generator=generator)
    nn.functional.cross_entropy(small(images), labels).backward()
    last = torch.stack([p.grad.norm() for p in small.stage3.parameters()]).norm()
    expected = {"input": images.grad.norm(), "stem": small.stem[0].weight.grad.norm(), "last stage": last}
    assert norms == pytest.approx({key: value.item() for key, value in expected.items()}, rel=1e-4)


@pytest.mark.parametrize("first_weights", ["drawn", "whitened"])
def test_weights_that_are_not_trained_have_gradients_too(first_weights):
    net = registry.build(Model(model="speednet", width=8, first_weights=first_weights), classes=10, image_size=16)
    norms = anatomy.gradient_norms(net, 16, 10)
    assert min(norms.values()) > 0
    assert not all(p.requires_grad for p in net.parameters())


def test_listing_names_every_network(capsys):
    assert listing.main([]) == 0
    printed = capsys.readouterr().out
    for text in ("resnet18", "11,173,962", "1.111", "simplecnn", "torchvision/densenet121"):
        assert text in printed


def test_listing_one_network(capsys):
    assert listing.main(["resnet18", "--width", "8", "--image-size", "16"]) == 0
    printed = capsys.readouterr().out
    for text in ("layer1.0.conv1", "8 x 16 x 16", "stage 4", "trainable", "GFLOPs", "last stage"):
        assert text in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet181"], "did you mean 'resnet18'?"),
        (["torchvision/resnet181"], "did you mean 'resnet18'?"),
        (["resnet9", "--stem", "cifar"], "leave it out with resnet9"),
        (["torchvision/inception_v3"], "--image-size 32 does not suit"),
        (["torchvision/alexnet", "--width", "8"], "leave it out with torchvision/NAME"),
    ],
)
def test_listing_refuses_with_code_2(arguments, message, capsys):
    assert listing.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--width", "8"], ["--image-size", "0"], ["resnet18", "--torchvision"]])
def test_listing_refuses_flags_that_mean_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        listing.main(arguments)
    assert end.value.code == 2
    assert arguments[-2 if arguments[0].startswith("--") else -1] in capsys.readouterr().err
