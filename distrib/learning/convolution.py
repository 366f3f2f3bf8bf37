"""Convolutions whose gradients are matrix products, where few places are left of an image.

On CPUs that multiply bf16 matrices in tiles (AMX), oneDNN takes most of a backward pass for the gradients of weights:
those of 512 filters over 4x4 places take it three times as long as the forward pass. Laid out as one matrix, all that
the filters saw is multiplied with the gradients of their outputs, in about a third of that time. The more places, the
more there is to lay out. Without tiles, oneDNN is slow where a filter leaves out places, or few are left; between many
channels each tap of the filters is then multiplied for itself. Figures for each shape: docs/performance.md.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

Pair = tuple[int, int]  # vertical, horizontal


@dataclass(frozen=True)
class Reach:
    """Where products are faster on a kind of CPU."""

    places: int
    """Of an output, up to which weights' gradients are."""
    strided: int
    """The same, of filters that leave out places."""
    wide: float
    """Weights of a tap, from which on it is worth a product of its own: with fewer, copying takes as long."""
    tapped: int
    """Places, up to which it is."""
    deep: float
    """Channels, from which on the gradients of images are, too."""


TILES = Reach(places=36, strided=36, wide=math.inf, tapped=0, deep=512)  # taps: not measured there
VECTORS = Reach(places=9, strided=64, wide=256 * 256, tapped=25, deep=math.inf)


def on_this_cpu() -> Reach | None:
    """Where products are faster on it; None without instructions for bf16, where PyTorch's kernels are left alone."""
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16"):
        return TILES
    return VECTORS if able.get("avx512_bf16") else None


def patches(images: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """What a convolution sees at each place, a row for each: (N, C, H, W) to (N * places, height * width * C)."""
    (height, width), (down, right), channels = kernel, stride, images.shape[1]
    padded = F.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    lines = padded.permute(0, 2, 3, 1).flatten(2)  # (N, H, W * C): a line of a patch lies in one piece
    windows = lines.unfold(2, width * channels, right * channels).unfold(1, height, down)
    return windows.permute(0, 1, 2, 4, 3).reshape(-1, height * width * channels)


class _Products(torch.autograd.Function):
    """A convolution as PyTorch computes it, with gradients as :func:`patches` allow."""

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor | None, layer: "SmallConvolution") -> Tensor:
        context.save_for_backward(images, weight)
        context.layer = layer
        return F.conv2d(images, weight, bias, layer.stride, layer.padding)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = context.saved_tensors
        for_images, for_weight, for_bias = context.needs_input_grad[:3]
        layer = context.layer
        by_images = of_images if layer.deep else conv2d_input
        by_weight = tap_by_tap if layer.wide else of_weight
        return (
            by_images(images.shape, weight, gradient, layer.stride, layer.padding) if for_images else None,
            by_weight(images, weight.shape, gradient, layer.stride, layer.padding) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
            None,
        )


def of_weight(images: Tensor, shape: torch.Size, gradient: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The gradient of a convolution's weights."""
    outputs, inputs, height, width = shape
    told = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    seen = patches(images, (height, width), stride, padding)
    return (told.T @ seen).view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def tap_by_tap(images: Tensor, shape: torch.Size, gradient: Tensor, _stride: Pair, padding: Pair) -> Tensor:
    """The gradient of the weights, where the stride is 1: for each tap of the filters a product of its own.

    Where places are few, many taps lie beyond the margin, and there is nothing to multiply: a third of 3x3 over 4x4
    places, and all but the middle of one over a single place. Nor is anything laid out nine times.
    """
    outputs, inputs, height, width = shape
    seen, told = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    found = images.new_empty(outputs, height, width, inputs)
    for down in range(height):
        rows, lines = inside(down, seen.shape[1], told.shape[1], padding[0])
        for right in range(width):
            columns, pixels = inside(right, seen.shape[2], told.shape[2], padding[1])
            by = told[:, rows, columns].reshape(-1, outputs)
            found[:, down, right] = by.T @ seen[:, lines, pixels].reshape(-1, inputs)
    return found.permute(0, 3, 1, 2)


def inside(tap: int, side: int, places: int, padding: int) -> tuple[slice, slice]:
    """Along a side of an image: the places at which a tap of the filter lies in it, and the pixels below the tap."""
    shift = tap - padding
    first = max(0, -shift)
    last = max(first, min(places, side - shift))  # as the first, if at none
    return slice(first, last), slice(first + shift, last + shift)


def of_images(shape: torch.Size, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The gradient of a convolution's images; its stride is 1."""
    _, inputs, height, width = weight.shape
    # A convolution of the gradients, with the filters turned around.
    seen = patches(gradient, (height, width), stride, (height - 1 - padding[0], width - 1 - padding[1]))
    turned = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, inputs)
    return (seen @ turned).view(shape[0], *shape[2:], inputs).permute(0, 3, 1, 2)


class SmallConvolution(nn.Conv2d):
    """A convolution that learns by matrix products where its output is small; what it returns is the same."""

    reach: Reach

    @property
    def dense(self) -> bool:
        """Whether it leaves out no places."""
        return self.stride == (1, 1)

    @property
    def deep(self) -> bool:
        """Whether the gradients of its images are products, too."""
        return self.dense and self.out_channels >= self.reach.deep

    @property
    def wide(self) -> bool:
        """Whether each of its taps has a product of its own."""
        return self.dense and self.in_channels * self.out_channels >= self.reach.wide

    @property
    def places(self) -> int:
        """Up to how many of its output its weights' gradients are products."""
        if not self.dense:
            return self.reach.strided
        return self.reach.tapped if self.wide else self.reach.places

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, outputs, H', W') for (N, inputs, H, W)."""
        padding: Pair = self.padding  # type: ignore[assignment] # :func:`suits` refuses names
        sides = [
            (side + 2 * pad - kernel) // step + 1
            for side, pad, kernel, step in zip(images.shape[2:], padding, self.kernel_size, self.stride, strict=True)
        ]
        rounded = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
        learns = torch.is_grad_enabled() and rounded
        if not learns or sides[0] * sides[1] > self.places:
            return super().forward(images)
        bias = None if self.bias is None else self.bias.bfloat16()
        out: Tensor = _Products.apply(images.bfloat16(), self.weight.bfloat16(), bias, self)
        return out


def by_products(network: nn.Module, reach: Reach) -> None:
    """Let the convolutions of a network in channels_last learn so. Modules, parameters and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and suits(module):
            module.__class__ = SmallConvolution
            cast(SmallConvolution, module).reach = reach


def suits(convolution: nn.Conv2d) -> bool:
    """Whether its patches are what :func:`patches` makes."""
    if isinstance(convolution.padding, str) or convolution.padding_mode != "zeros" or convolution.groups > 1:
        return False
    inside = all(pad < kernel for pad, kernel in zip(convolution.padding, convolution.kernel_size, strict=True))
    return inside and set(convolution.dilation) == {1}
