"""Images decoded as they are needed, by worker processes, a micro-batch at a time."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from distrib.images.augmentation import CROPPED_ABOVE, RESIZED, apply_policy, policy_of
from distrib.images.cropping import Pixels, centre, random_box
from distrib.images.decoding import ImageError, pixels
from distrib.images.hashing import key
from distrib.images.order import Indices
from distrib.images.serving import served, served_by
from distrib.images.splits import Split
from distrib.settings import Settings

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
        shared = torch.empty((len(indices), self.size, self.size, 3), dtype=torch.uint8)
        classes = torch.from_numpy(self.split.labels[indices])
        if get_worker_info() is not None:
            # Where torch would do it, when the batch is sent, an error is lost and the training process waits for ever.
            shared.share_memory_()
            classes.share_memory_()
        images, labels, bad = shared.numpy(), classes.numpy(), []
        for place, index in enumerate(indices.tolist()):
            try:
                images[place] = self._varied(epoch, index)
            except ImageError as error:
                bad.append(str(error))
                images[place], labels[place] = 0, IGNORED
        return Decoded(shared, classes, bad)

    def _varied(self, epoch: int, index: int) -> Pixels:
        if self.resized:
            choose = partial(random_box, folded=key(self.seed, epoch, RESIZED), index=index)
            found = self.split.crop(index, choose, self.size)
        else:
            found = pixels(centre(self.split.image(index), self.size))
        if self.policy is None:
            return found
        image = Image.fromarray(found)
        return pixels(apply_policy(self.policy, image, seed=self.seed, epoch=epoch, index=index))


def worker_count(wanted: int | None, processes: int) -> int:
    """Workers of each of a node's ``processes``: as many as wanted, else its share of the cores, 16 at most."""
    return min(16, max(1, cores() // processes)) if wanted is None else wanted


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Tasks(Sampler[Task]):
    """The tasks of the next pass; set anew before each, so that the workers can stay."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


class WorkerLoader:
    """Runs a :class:`Decoding` in ``workers`` processes that live from the first pass to the last; 0: in this one."""

    def __init__(self, decoding: Decoding, workers: int, *, pin: bool) -> None:
        self._tasks, self._workers = _Tasks(), workers
        self._loader = DataLoader(
            decoding,
            sampler=self._tasks,
            batch_size=None,
            persistent_workers=workers > 0,
            pin_memory=pin,
            **served_by(workers),
        )

    def __call__(self, epoch: int, lists: list[Indices]) -> Iterator[Decoded]:
        """Decode these lists of indices, in their order.

        Raises:
            ImageError: a worker died, or has no room for what it decoded.
        """
        self._tasks.tasks = [(epoch, indices) for indices in lists]
        yield from served(self._loader) if self._workers else self._loader
