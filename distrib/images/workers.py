"""Images decoded as they are needed, by worker processes, a micro-batch at a time."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from distrib.images.augmentation import RESIZED, apply_policy, policy_of
from distrib.images.decoding import ImageError, centre, pixels, resized_crop
from distrib.images.hashing import key
from distrib.images.order import Indices
from distrib.images.splits import Split
from distrib.settings import Settings

CROPPED_ABOVE = 64  # pixels above which `--crop auto` takes a random part
IGNORED = -100  # label of an image that is left out: torch's cross-entropy ignores it

Task = tuple[int, Indices]  # epoch, indices of a micro-batch


@dataclass(frozen=True)
class Decoded:
    """A micro-batch as a worker returns it: images (n, size, size, 3) uint8, labels (n,) int64, and what was bad."""

    images: Tensor
    labels: Tensor
    bad: list[str]

    def pin_memory(self) -> "Decoded":
        """Move to memory from which a GPU copies by itself; the loader calls this."""
        return Decoded(self.images.pin_memory(), self.labels.pin_memory(), self.bad)


class Decoding(Dataset[Decoded]):
    """Decodes the micro-batches of a split; asked for with a :data:`Task`.

    Nothing here raises for a bad image: an exception would cross from the worker wrapped in a traceback. Its place
    holds black and a label that the loss ignores, so that all other images stay in theirs.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        *,
        seed: int,
        resized: bool = False,
        policy: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        self.split, self.size, self.seed, self.resized, self.policy = split, size, seed, resized, policy

    @classmethod
    def of(cls, split: Split, size: int, settings: Settings) -> "Decoding":
        """Training images, varied as the settings ask where that needs the decoded image."""
        crop = settings.augmentation.crop
        resized = crop == "resized" or (crop == "auto" and size > CROPPED_ABOVE)
        policy = policy_of(settings.augmentation.policy)
        return cls(split, size, seed=settings.compute.seed, resized=resized, policy=policy)

    @property
    def varies(self) -> bool:
        """Whether an image comes out differently each time."""
        return self.resized or self.policy is not None

    def __getitem__(self, task: Task) -> Decoded:
        """Decode one micro-batch."""
        epoch, indices = task
        images = np.zeros((len(indices), self.size, self.size, 3), dtype=np.uint8)
        labels = self.split.labels[indices]
        bad = []
        for place, index in enumerate(indices.tolist()):
            try:
                images[place] = pixels(self._varied(self.split.image(index), epoch, index))
            except ImageError as error:
                bad.append(str(error))
                labels[place] = IGNORED
        return Decoded(torch.from_numpy(images), torch.from_numpy(labels), bad)

    def _varied(self, image: Image.Image, epoch: int, index: int) -> Image.Image:
        if self.resized:
            image = resized_crop(image, self.size, key(self.seed, epoch, RESIZED), index)
        else:
            image = centre(image, self.size)
        if self.policy is None:
            return image
        return apply_policy(self.policy, image, seed=self.seed, epoch=epoch, index=index)


def worker_count(wanted: int | None, processes: int) -> int:
    """Workers of each of a node's ``processes``: as many as wanted, else its share of the cores, 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // processes)) if wanted is None else wanted


def _ignore_interrupt(_: int) -> None:
    """Ctrl-C reaches the workers too; the training process still needs them until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Tasks(Sampler[Task]):
    """The tasks of the next pass; set anew before each, so that the workers can stay."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


class WorkerLoader:
    """Runs a :class:`Decoding` in ``workers`` processes that live from the first pass to the last; 0: in this one."""

    def __init__(self, decoding: Decoding, workers: int, *, pin: bool) -> None:
        self._tasks = _Tasks()
        self._loader = DataLoader(
            decoding,
            sampler=self._tasks,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            worker_init_fn=_ignore_interrupt,
        )

    def __call__(self, epoch: int, lists: list[Indices]) -> Iterator[Decoded]:
        """Decode these lists of indices, in their order."""
        self._tasks.tasks = [(epoch, indices) for indices in lists]
        return iter(self._loader)
