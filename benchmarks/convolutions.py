"""Gradients of 3x3 convolutions in bf16: by PyTorch's kernels, and as matrix products, by turns.

    python benchmarks/convolutions.py [--rounds N]

For each shape, milliseconds of the gradient of the weights and of the images, as medians. Where ``distrib`` takes
products says ``distrib/learning/convolution.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from distrib.learning import convolution
from distrib.lifecycle.allocator import keep_pages

# images, channels in and out, side of the output, stride
SHAPES = (
    (2000, 256, 256, 1, 1),
    (2000, 256, 256, 2, 1),
    (2000, 256, 256, 3, 1),
    (2000, 256, 256, 5, 1),
    (2000, 256, 256, 7, 1),
    (128, 512, 512, 2, 1),
    (128, 512, 512, 3, 1),
    (128, 512, 512, 4, 1),
    (128, 256, 512, 4, 2),
    (128, 128, 256, 8, 2),
    (128, 64, 128, 16, 2),
    (128, 256, 256, 8, 1),
    (128, 128, 128, 16, 1),
    (400, 512, 512, 4, 1),
    (400, 256, 512, 8, 1),
)


def milliseconds(calls: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Of each call the median, after one that does not count."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, times in zip(calls, found, strict=True):
            started = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times[1:]) for times in found]


def measure(images: int, inputs: int, outputs: int, side: int, stride: int, rounds: int) -> list[float]:
    """Of the weights: PyTorch's, one product and, if the stride is 1, one by tap; then of the images the first two."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    seen, weight = drawn(images, inputs, side * stride, side * stride), drawn(outputs, inputs, 3, 3)
    gradient, steps, padding = drawn(images, outputs, side, side), (stride, stride), (1, 1)
    calls = [
        lambda: conv2d_weight(seen, weight.shape, gradient, steps, padding),
        lambda: convolution.of_weight(seen, weight.shape, gradient, steps, padding),
    ]
    if stride == 1:
        calls += [
            lambda: convolution.tap_by_tap(seen, weight.shape, gradient, steps, padding),
            lambda: conv2d_input(seen.shape, weight, gradient, steps, padding),
            lambda: convolution.of_images(seen.shape, weight, gradient, steps, padding),
        ]
    return milliseconds(calls, rounds)


def told(times: list[float]) -> str:
    """In columns."""
    return " ".join(f"{time:6.1f}" for time in times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_pages()
    for count, inputs, outputs, side, stride in SHAPES:
        found = measure(count, inputs, outputs, side, stride, rounds)
        shape = f"{count} images, {inputs} to {outputs} channels, {side}x{side}, stride {stride}"
        images = f"   images {told(found[3:])}" if stride == 1 else ""
        print(f"{shape:<52} weights {told(found[:3])}{images}", flush=True)


if __name__ == "__main__":
    main()
