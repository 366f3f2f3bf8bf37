"""What all loops share: their arguments, images to train on, and the clock that their updates are timed by."""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from distrib.settings import Model
from distrib.zoo import registry

CLASSES, SIDE = 10, 32
IMAGES = 20_000  # enough that on a CPU no other trainer is timed at the end of an epoch, where workers start anew


@dataclass
class Stopwatch:
    """Times updates: the first few warm up, and after the last one the loop ends."""

    batch: int
    warm_up: int
    updates: int
    laps: list[float] = field(default_factory=list)

    def lap(self) -> None:
        """An update is done. After the last, print images/s as JSON and leave: loaders and threads need no ending."""
        done = len(self.laps) + 1
        if torch.cuda.is_available() and done in (self.warm_up, self.warm_up + self.updates):
            torch.cuda.synchronize()
        self.laps.append(time.perf_counter())
        if done == self.warm_up + self.updates:
            seconds = self.laps[-1] - self.laps[self.warm_up - 1]
            print(json.dumps({"images_per_second": self.batch * self.updates / seconds}), flush=True)
            sys.exit()


def arguments(*choices: str) -> argparse.Namespace:
    """``loop`` (one of ``choices``), and the network, batch, updates, precision, device and folder it works with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=choices)
    parser.add_argument("--network", default="simplecnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--updates", type=int, default=8)
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
