"""What training reports: numbers stay on the device until somebody looks, and are summed the same way each time."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distrib.images.workers import IGNORED
from distrib.lifecycle.processes import Processes


@dataclass
class EpochSums:
    """Sums over the epoch so far, of all processes."""

    loss: float = 0.0
    hits: float = 0.0
    images: float = 0.0
    seconds: float = 0.0
    """Time spent on training, over all restarts."""

    def add(self, loss: float, hits: float, images: float) -> None:
        """Take in an update."""
        self.loss, self.hits, self.images = self.loss + loss, self.hits + hits, self.images + images


@dataclass(frozen=True)
class Row:
    """An update's sums over all shares."""

    loss: float
    hits: float
    images: float
    grad_norm: float
    checksum: int
    """Of the gradients' bits; -1 if there is none."""
    shares: tuple[int, ...]
    """Those whose own loss was not finite; a share is a process's, or a virtual rank's."""

    @property
    def finite(self) -> bool:
        """Whether the update was made; it was left out if its gradients were not finite."""
        return math.isfinite(self.grad_norm)

    @property
    def mean_loss(self) -> float:
        """Loss per image."""
        return self.loss / max(self.images, 1)


@dataclass
class Meter:
    """Collects a row of sums for each update, and gives all rows since the last look at once."""

    processes: Processes
    rows: list[Tensor] = field(default_factory=list)
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, sums: Tensor, grad_norm: Tensor, checksum: Tensor) -> None:
        """Keep the sums of an update, its gradient norm and the gradients' checksum, on the device.

        ``sums`` is (shares, 3) float32: (loss, hits, images) of each of this process's shares. The others are scalars.
        """
        self.rows.append(torch.cat([sums.flatten(), torch.stack([grad_norm.detach().float(), checksum])]))

    def look(self) -> tuple[list[Row], float, float]:
        """Rows of the updates since the last look, seconds since, and the share of them waited for data.

        The sums are over all shares and rounded once: they depend neither on how many updates are looked at together,
        as they would in an all-reduce, nor on who computed which share. This waits for the device. Every process must
        call it.
        """
        stacked = self.processes.stack(torch.stack(self.rows)).cpu()  # (world, updates, own shares * 3 + 2)
        common = stacked[0, :, -2:].tolist()  # the same on all
        sums = stacked[:, :, :-2].unflatten(2, (-1, 3)).permute(1, 0, 2, 3).flatten(1, 2)  # (updates, shares, 3)
        rows = [row_of(shares, *both) for shares, both in zip(sums.tolist(), common, strict=True)]
        seconds = time.perf_counter() - self.started
        share = min(self.waited / seconds, 1.0)
        self.rows, self.waited = [], 0.0
        self.started = time.perf_counter()
        return rows, seconds, share

    def restart(self) -> None:
        """Leave out the time since the last look, which was not spent on training."""
        self.started = time.perf_counter()


def row_of(shares: list[list[float]], grad_norm: float, checksum: float) -> Row:
    """The row of an update, from (loss, hits, images) of each share."""
    loss, hits, images = map(total, zip(*shares, strict=True))
    bad = tuple(number for number, share in enumerate(shares) if not math.isfinite(share[0]))
    return Row(loss, hits, images, grad_norm, int(checksum), bad)


def total(values: Iterable[float]) -> float:
    """The sum, rounded once, so that the order does not matter; of infinities of both signs, not a number."""
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def batch_sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """(loss, hits, images) of a micro-batch, as float32 on its device; ``loss`` is a sum over its images."""
    hits = (logits.argmax(1) == labels).sum()
    return torch.stack([loss.detach(), hits, (labels != IGNORED).sum()]).float()
