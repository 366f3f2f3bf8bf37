"""Gradients of 3x3 convolutions in bf16: by PyTorch's kernels, and as matrix products, by turns.

    python benchmarks/convolutions.py [--rounds N]

For each shape, milliseconds of the gradient of the weights and of the images, as medians. ``distrib`` takes products
for outputs of up to 36 places (of images, from 512 channels on), on CPUs with AMX. Behind
``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16`` the same CPU shows what others, without AMX, would gain or lose.
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
    (128, 512, 512, 4, 1),
    (128, 256, 512, 4, 2),
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
    """Of the weights: PyTorch's, products; of the images: PyTorch's, products."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    seen, weight = drawn(images, inputs, side * stride, side * stride), drawn(outputs, inputs, 3, 3)
    gradient, steps, padding = drawn(images, outputs, side, side), (stride, stride), (1, 1)
    return milliseconds(
        [
            lambda: conv2d_weight(seen, weight.shape, gradient, steps, padding),
            lambda: convolution.of_weight(seen, weight.shape, gradient, steps, padding),
            lambda: conv2d_input(seen.shape, weight, gradient, steps, padding),
            lambda: convolution.of_images(seen.shape, weight, gradient, steps, padding),
        ],
        rounds,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_pages()
    convolution.DEEP = 0  # products for all
    for images, inputs, outputs, side, stride in SHAPES:
        ours = measure(images, inputs, outputs, side, stride, rounds)
        shape = f"{images} images, {inputs} to {outputs} channels, {side}x{side}, stride {stride}"
        figures = [f"{ours[at]:6.1f} to {ours[at + 1]:6.1f}" for at in (0, 2)]
        print(f"{shape:<52} weights {figures[0]}   images {figures[1] if stride == 1 else ''}", flush=True)


if __name__ == "__main__":
    main()
