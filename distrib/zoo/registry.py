"""One way from a name to a network."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from distrib.settings import Model, SettingsError, require
from distrib.zoo import anatomy, names
from distrib.zoo.borrowed import Weightless, borrow
from distrib.zoo.resnet import cifar_resnet, resnet
from distrib.zoo.small import ResNet9, SimpleCNN
from distrib.zoo.speednet import SpeedNet

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in names.IMAGENET_DEPTHS},
    **{f"plain{depth}": partial(resnet, depth, shortcuts=False) for depth in names.IMAGENET_DEPTHS},
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in names.CIFAR_DEPTHS},
    **{f"plain{depth}": partial(cifar_resnet, depth, shortcuts=False) for depth in names.CIFAR_DEPTHS},
    "resnet9": ResNet9,
    "simplecnn": SimpleCNN,
    "speednet": SpeedNet,
}
"""Our own networks. Each builder takes ``classes`` and ``width``, those of ``names.STEMMED`` also ``stem``,
and SpeedNet ``whiten``."""

SMALLEST_IMAGE, SMALLEST_HALVED = 8, 16  # the second where the first layer takes a pixel and three pools halve the rest
LARGEST_CIFAR_STEM = 64


def build(model: Model, *, classes: int, image_size: int, download: bool = True) -> nn.Module:
    """Build the network that ``model`` describes, for square RGB images.

    It takes float images (N, 3, image_size, image_size) to logits (N, classes). Its weights are a function of torch's
    random state. Without ``download`` a pretrained network comes without its published weights, for others to be loaded
    into it.

    Raises:
        SettingsError: there is no such network, or it does not go with another setting or the size of the images.
    """
    names.check(model.model)
    if model.model.startswith(names.TORCHVISION):
        name = model.model.removeprefix(names.TORCHVISION)
        network = borrow(name, classes=classes, image_size=image_size, pretrained=model.pretrained, download=download)
        return start(network, model)
    least = SMALLEST_HALVED if model.model == "speednet" else SMALLEST_IMAGE
    require(image_size >= least, f"--model {model.model} needs --image-size {least} or more")
    return start(BUILDERS[model.model](classes=classes, **_options(model, image_size)), model)


def blueprint(model: Model, *, classes: int, image_size: int) -> nn.Module:
    """Like :func:`build`, on the meta device: shapes without values, in a fraction of a second."""
    with Weightless():
        net = build(replace(model, pretrained=False), classes=classes, image_size=image_size)
    return net.to("meta")


def check_start_size(model: Model, *, classes: int, image_size: int, first: int) -> None:
    """Raise ``SettingsError`` if the network for ``image_size`` pixels does not take images of ``first`` pixels."""
    try:
        blueprint(model, classes=classes, image_size=first)
        # Vision transformers are built for one size, and then take no other.
        anatomy.look(blueprint(model, classes=classes, image_size=image_size), first)
    except (SettingsError, RuntimeError, AssertionError, ValueError) as error:
        raise SettingsError(f"--start-size {first}: {model.model} takes no images of that size ({error})") from None


def start(network: nn.Module, model: Model) -> nn.Module:
    """With ``--first-weights identity``, let the first filters of every 3x3 convolution pass on its input.

    The others, where there are more filters than inputs, stay as they were drawn. Source:
    https://arxiv.org/abs/2404.00498.
    """
    for layer in network.modules() if model.identity else ():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.groups == 1:
            nn.init.dirac_(layer.weight.detach()[: layer.in_channels])
    return network


def _options(model: Model, image_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {} if model.width is None else {"width": model.width}
    if model.model == "speednet":
        options["whiten"] = model.whitened
    if model.model in names.STEMMED:
        small = image_size <= LARGEST_CIFAR_STEM
        options["stem"] = model.stem if model.stem != "auto" else "cifar" if small else "imagenet"
    else:
        choosers = f"{names.STEMMED[0]} to {names.STEMMED[-1]}"
        require(model.stem == "auto", f"--stem applies to {choosers}: leave it out with {model.model}")
    return options
