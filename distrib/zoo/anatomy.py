"""Facts about a network: what it is made of, what it costs, and how gradients flow in it.

What only needs shapes also works on a network of the meta device, where nothing is computed.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.zoo.borrowed import Borrowed

FLOAT_BYTES = 4
MEGABYTE = 10**6


@dataclass(frozen=True)
class Layer:
    """One call of a module in a forward pass."""

    name: str
    """Its path in the network."""
    kind: str
    """Its class."""
    output_shape: tuple[int, ...]
    """Of one image, without the batch dimension."""
    parameters: int
    """Those that no earlier row has counted."""


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes) in fp32."""

    parameters: float
    activations: float
    """Outputs of all layers for one image."""
    training: float
    """Estimate for a batch: weights, gradients and momentum, and the batch's activations."""


def parameters(net: nn.Module, *, trainable: bool = False) -> int:
    """Count the parameters, or only those that learn."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)


def forward_flops(net: nn.Module, image_size: int) -> int:
    """Floating-point operations of convolutions and matrix products for one image; 2 for each multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - it imports triton, half a second

    with FlopCounterMode(display=False) as counter:
        look(net, image_size)
    return counter.get_total_flops()


def layers(net: nn.Module, image_size: int) -> list[Layer]:
    """Return the modules that have no parts, in order of execution.

    A module with parts has a row too, after theirs, if it owns parameters that none of them was called for (such as
    attention). So the rows' parameters add up to the network's, but for what a forward pass does not use.
    """
    rows: list[Layer] = []
    counted: set[nn.Parameter] = set()

    def add(name: str, module: nn.Module, output: Any) -> None:
        fresh = set(module.parameters()) - counted
        counted.update(fresh)
        whole = not any(module.children()) and not isinstance(module, nn.Identity)
        if whole or fresh:
            first = output[0] if isinstance(output, tuple) else output
            size = sum(p.numel() for p in fresh)
            rows.append(Layer(name, type(module).__name__, tuple(first.shape[1:]), size))

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: add(name, module, output))
        for name, module in net.named_modules()
    ]
    try:
        look(net, image_size)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def components(net: nn.Module) -> dict[str, int]:
    """Count the parameters of the stem, each stage and the classifier; torchvision's networks keep their own parts."""
    return {name: sum(p.numel() for p in part) for name, part in _parts(net).items()}


def memory(net: nn.Module, image_size: int, batch_size: int = 128) -> Memory:
    """Estimate the memory that the network takes, in fp32 and trained by SGD with momentum."""
    weights = parameters(net) * FLOAT_BYTES / MEGABYTE
    activations = sum(prod(layer.output_shape) for layer in layers(net, image_size)) * FLOAT_BYTES / MEGABYTE
    return Memory(weights, activations, 3 * weights + batch_size * activations)


def gradient_norms(net: nn.Module, image_size: int, classes: int, *, batch_size: int = 8) -> dict[str, float]:
    """Return norms of the loss's gradient at the input, at the first convolution's weights and in the last stage.

    For one batch of random images (standard normal) and labels, always the same, in training mode; of weights that are
    not trained, too. The network is copied first, since its running statistics would change.
    """
    net = copy.deepcopy(net).train().requires_grad_()
    device = _device(net)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator).to(device).requires_grad_()
    labels = torch.randint(classes, (batch_size,), generator=generator).to(device)
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    *_, last_stage, _ = _parts(net).values()
    wanted = [images, first.weight, *last_stage]
    gradients = torch.autograd.grad(F.cross_entropy(net(images), labels), wanted, allow_unused=True)
    rest = [gradient.flatten() for gradient in gradients[2:] if gradient is not None]
    norms = (gradients[0].norm(), gradients[1].norm(), torch.cat(rest).norm())
    return dict(zip(("input", "stem", "last stage"), map(float, norms), strict=True))


def _parts(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The network's parameters by component, in order, the classifier last."""
    root = net.net if isinstance(net, Borrowed) else net
    loose = list(root.parameters(recurse=False))
    parts = {"other": loose} if loose else {}
    for name, child in root.named_children():
        owned = list(child.parameters())
        if owned:
            parts.setdefault(_component(name), []).extend(owned)
    return parts


def _component(name: str) -> str:
    """What people call the attribute ``name``."""
    if name in ("stem", "conv1", "bn1"):
        return "stem"
    if stage := re.fullmatch(r"(?:layer|stage)(\d)", name):
        return f"stage {stage[1]}"
    return "classifier" if name in ("fc", "head", "heads") else name


def look(net: nn.Module, image_size: int) -> Tensor:
    """One image through the network, as in evaluation: logits (1, classes)."""
    with _evaluating(net), torch.no_grad():
        return net(torch.zeros(1, 3, image_size, image_size, device=_device(net)))


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    # Each module keeps its own mode: part of a network may be frozen.
    training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
