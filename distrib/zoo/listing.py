"""``distrib models``: which networks there are, and what one is made of."""

import sys
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from distrib.settings import Model, SettingsError, Stem, require
from distrib.zoo import anatomy, names, registry
from distrib.zoo.borrowed import classifiers


@dataclass(frozen=True)
class Request:
    """List the networks, or show what one of them is made of."""

    name: tyro.conf.Positional[str | None] = None
    """Network to look into. None: list them all."""
    image_size: int = 32
    """Side of the square images, pixels."""
    classes: int = 10
    """Classes to tell apart."""
    width: int | None = None
    """Channels of the first stage. None: the network's own."""
    stem: Stem = "auto"
    """First layers of a ResNet: cifar or imagenet. auto: cifar up to 64 pixels."""
    torchvision: bool = False
    """Measure torchvision's networks too, which takes half a minute. Otherwise only their names are listed."""

    def __post_init__(self) -> None:
        require(self.image_size > 0, "--image-size is at least 1 pixel")
        require(self.classes > 0, "--classes is at least 1")
        plain = self.width is None and self.stem == "auto"
        require(self.name is not None or plain, "--width and --stem go with the name of a network")
        require(self.name is None or not self.torchvision, "--torchvision goes with the list: give no name")


def main(arguments: list[str]) -> int:
    """Print what ``arguments`` ask for; return the exit code: 2, with a message on stderr, for what cannot be."""
    request = tyro.cli(Request, args=arguments, prog="distrib models")
    console = Console()
    try:
        if request.name is None:
            _list(console, request)
        else:
            _show(console, request, Model(model=request.name, width=request.width, stem=request.stem))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _list(console: Console, request: Request) -> None:
    borrowed = [names.TORCHVISION + name for name in classifiers()]
    title = f"Networks for {request.image_size} px and {request.classes} classes"
    table = Table("name", title=title)
    table.add_column("parameters", justify="right")
    table.add_column("forward GFLOPs", justify="right")
    for name in (*names.OWN, *(borrowed if request.torchvision else ())):
        table.add_row(name, *_costs(name, request))
    console.print(table)
    if not request.torchvision:
        console.print("\nAnd torchvision's (measured with --torchvision):\n")
        console.print(", ".join(borrowed), highlight=False)


def _costs(name: str, request: Request) -> tuple[str, str]:
    """Parameters and forward GFLOPs, or dashes for a network that cannot take images of this size."""
    try:
        net = registry.blueprint(Model(model=name), classes=request.classes, image_size=request.image_size)
    except SettingsError:
        return "-", "other size needed"
    return f"{anatomy.parameters(net):,}", f"{anatomy.forward_flops(net, request.image_size) / 1e9:.3f}"


def _show(console: Console, request: Request, model: Model) -> None:
    outline = registry.blueprint(model, classes=request.classes, image_size=request.image_size)
    console.print(_layer_table(model.model, outline, request.image_size))
    console.print(_component_table(outline))
    console.print(_totals(outline, request.image_size))
    # Only the gradients need values.
    torch.manual_seed(0)
    net = registry.build(model, classes=request.classes, image_size=request.image_size)
    console.print(_gradient_table(anatomy.gradient_norms(net, request.image_size, request.classes)))


def _layer_table(name: str, net: torch.nn.Module, image_size: int) -> Table:
    table = Table(title=f"{name} at {image_size} px")
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("output of one image", justify="right")
    table.add_column("parameters", justify="right")
    for layer in anatomy.layers(net, image_size):
        shape = " x ".join(map(str, layer.output_shape))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}")
    return table


def _component_table(net: torch.nn.Module) -> Table:
    table = Table("component", title="Parameters")
    table.add_column("parameters", justify="right")
    for name, count in anatomy.components(net).items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{anatomy.parameters(net):,}")
    table.add_row("trainable", f"{anatomy.parameters(net, trainable=True):,}")
    return table


def _totals(net: torch.nn.Module, image_size: int) -> Table:
    memory = anatomy.memory(net, image_size)
    table = Table("cost", title="Cost in fp32")
    table.add_column("", justify="right")
    table.add_row("forward pass of one image", f"{anatomy.forward_flops(net, image_size) / 1e9:.3f} GFLOPs")
    table.add_row("parameters", f"{memory.parameters:.1f} MB")
    table.add_row("activations of one image", f"{memory.activations:.1f} MB")
    table.add_row("training on batches of 128, about", f"{memory.training:,.0f} MB")
    return table


def _gradient_table(norms: dict[str, float]) -> Table:
    table = Table("gradient of the loss at", title="Gradient flow, fresh weights and random images")
    table.add_column("norm", justify="right")
    for place, norm in norms.items():
        table.add_row(place, f"{norm:.4g}")
    return table
