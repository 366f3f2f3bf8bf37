"""What all loops share: their arguments, images to train on, and the clock that their updates are timed by.

A loop goes on until it is ended.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from distrib.settings import Model
from distrib.zoo import registry

CLASSES, SIDE = 10, 32
IMAGES = 30_000  # enough that on a CPU no other trainer is timed at the end of an epoch, where workers start anew


@dataclass
class Stopwatch:
    """Writes images/s of every few updates, as JSON lines."""

    batch: int
    every: int
    journal: Path
    _update: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def lap(self) -> None:
        """An update is done."""
        self._update += 1
        if self._update % self.every:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        speed = self.batch * self.every / (now - self._since)
        self._since = now
        with self.journal.open("a") as file:
            file.write(json.dumps({"update": self._update, "images_per_second": speed}) + "\n")


def arguments(*choices: str) -> argparse.Namespace:
    """``loop`` (one of ``choices``), what it works with, and where its images/s go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=choices)
    parser.add_argument("--network", default="simplecnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--every", type=int, default=1, help="updates from one figure to the next")
    parser.add_argument("--journal", type=Path, default=Path("/dev/stdout"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", help="a tree of images, as torchvision's ImageFolder reads them")
    return parser.parse_args()


def network(name: str) -> nn.Module:
    """The network of that name, as our registry builds it for CIFAR."""
    return registry.build(Model(model=name), classes=CLASSES, image_size=SIDE)


def images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 32, 32, 3) uint8 and labels (n,): blurred noise, which files hold about as small as photographs."""
    draw = torch.Generator().manual_seed(0)
    blots = torch.rand(IMAGES, 3, SIDE // 4, SIDE // 4, generator=draw)
    pixels = F.interpolate(blots, SIDE, mode="bilinear").mul(255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy(), torch.arange(IMAGES).remainder(CLASSES).numpy()
