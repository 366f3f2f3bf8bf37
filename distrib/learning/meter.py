"""What training reports: numbers stay on the device until somebody looks, and are summed the same way each time."""

import math
import time
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
    """An update's sums over all processes."""

    loss: float
    hits: float
    images: float
    grad_norm: float
    ranks: tuple[int, ...]
    """Those whose own loss was not finite."""

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

    def add(self, sums: Tensor, grad_norm: Tensor) -> None:
        """Keep this process's (loss, hits, images) of an update and its gradient norm, on the device."""
        self.rows.append(torch.cat([sums, grad_norm.detach().float().reshape(1)]))

    def look(self) -> tuple[list[Row], float, float]:
        """Rows of the updates since the last look, seconds since, and the share of them waited for data.

        The sums are over all processes, in the order of their ranks: so they do not depend on how many updates are
        looked at together, as they would in an all-reduce. This waits for the device. Every process must call it.
        """
        stacked = self.processes.stack(torch.stack(self.rows)).cpu().double()
        sums, norms = stacked[:, :, :3].sum(0).tolist(), stacked[0, :, 3].tolist()
        bad = (~stacked[:, :, 0].isfinite()).T.tolist()
        rows = [
            Row(loss, hits, images, norm, tuple(rank for rank, is_bad in enumerate(marks) if is_bad))
            for (loss, hits, images), norm, marks in zip(sums, norms, bad, strict=True)
        ]
        seconds = time.perf_counter() - self.started
        share = min(self.waited / seconds, 1.0)
        self.rows, self.waited = [], 0.0
        self.started = time.perf_counter()
        return rows, seconds, share

    def restart(self) -> None:
        """Leave out the time since the last look, which was not spent on training."""
        self.started = time.perf_counter()


def batch_sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """(loss, hits, images) of a micro-batch, as float32 on its device; ``loss`` is a sum over its images."""
    hits = (logits.argmax(1) == labels).sum()
    return torch.stack([loss.detach(), hits, (labels != IGNORED).sum()]).float()
