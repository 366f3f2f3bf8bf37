"""The order of training images: a pure function of (seed, epoch), from which every share is a slice.

Batch k is a slice of the epoch's permutation, and a process's share a slice of the batch. There is no sampler and no
sampler state, so to go on in the middle of an epoch costs nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from distrib.images.hashing import MASK, key, mix
from distrib.settings import SettingsError

Indices = npt.NDArray[np.int64]

_ORDER = 1  # purpose of the key: order


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, images: int) -> Indices:
    """The order in which epoch ``epoch`` (from 0) visits ``images`` images: (images,) int64.

    Images are sorted by a 64-bit hash of their index, which does not depend on a library's shuffling algorithm.
    """
    index = np.arange(images, dtype=np.int64)
    folded = key(seed, epoch, _ORDER)
    high, low = mix(index ^ folded), mix((index + key(folded)) & MASK)
    order = np.lexsort((low, high))
    order.flags.writeable = False
    return order


def check_shares(batch_size: int, world: int, images: int | None = None) -> None:
    """Refuse a batch that ``world`` processes cannot share equally, naming the numbers that would do.

    ``images`` is how many there are, if that is known yet.

    Raises:
        SettingsError: they cannot.
    """
    if batch_size % world == 0:
        return
    below = batch_size - batch_size % world
    near = [size for size in (below, below + world) if 0 < size <= (images or size)]
    sizes = f"--batch-size {' or '.join(map(str, near))}, or " if near else ""
    worlds = ", ".join(str(w) for w in range(1, min(batch_size, 64) + 1) if batch_size % w == 0)
    raise SettingsError(
        f"--batch-size {batch_size} is the batch of all processes together and cannot be shared equally by {world}: "
        f"use {sizes}one of {worlds} processes"
    )


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut into global batches, shares and micro-batches.

    ``rank`` of ``world`` processes takes its slice of each global batch of ``batch_size`` images, in micro-batches of
    at most ``micro_batch``. The epoch's tail that does not fill a batch is left out; it is another tail every epoch.
    """

    images: int
    batch_size: int
    micro_batch: int | None
    rank: int
    world: int

    def __post_init__(self) -> None:
        """Refuse what cannot be cut, naming the numbers that could."""
        if self.batch_size > self.images:
            raise SettingsError(f"--batch-size {self.batch_size} is more than the {self.images} training images")
        check_shares(self.batch_size, self.world, self.images)

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        return self.images // self.batch_size

    @property
    def share(self) -> int:
        """Images of one update that each process computes."""
        return self.batch_size // self.world

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a process's share of an update is computed in."""
        return -(-self.share // min(self.micro_batch or self.share, self.share))

    def share_of(self, seed: int, epoch: int, position: int) -> list[Indices]:
        """Indices of this process's images in batch ``position`` (from 0) of an epoch, a list of micro-batches."""
        start = position * self.batch_size + self.rank * self.share
        mine = permutation(seed, epoch, self.images)[start : start + self.share].copy()
        return np.array_split(mine, self.micro_batches)
