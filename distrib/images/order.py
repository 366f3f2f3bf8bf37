"""The order of training images: a pure function of (seed, epoch), from which every share is a slice.

Batch k is a slice of the epoch's permutation, and a process's share a slice of the batch. There is no sampler and no
sampler state, so to go on in the middle of an epoch costs nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from distrib.images.hashing import key, mix
from distrib.settings import SettingsError

Indices = npt.NDArray[np.int64]

_ORDER = 1  # purpose of the key: order


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, images: int) -> Indices:
    """The order in which epoch ``epoch`` (from 0) visits ``images`` images: (images,) int64.

    Images are sorted by a hash of their index, which does not depend on a library's shuffling algorithm. The hash is
    one to one, so no two images of the first 2**32 tie, and any way of sorting gives this order.
    """
    order: Indices = np.argsort(mix(np.arange(images, dtype=np.int64) ^ key(seed, epoch, _ORDER)))
    order.flags.writeable = False
    return order


def own_shares(shares: int, rank: int, world: int) -> range:
    """The shares that ``rank`` of ``world`` processes computes: as many as every other, side by side.

    Raises:
        SettingsError: the processes cannot divide them equally.
    """
    if shares % world:
        worlds = ", ".join(str(w) for w in range(1, shares + 1) if shares % w == 0)
        raise SettingsError(f"--virtual-ranks {shares} cannot be divided by {world} processes: use one of {worlds}")
    each = shares // world
    return range(rank * each, (rank + 1) * each)


def can_share(batch_size: int, shares: int, world: int) -> bool:
    """Whether a batch can be cut into so many shares, and these be divided among ``world`` processes, all equally."""
    return batch_size % shares == 0 and shares % world == 0


def check_shares(batch_size: int, shares: int, images: int | None = None, *, virtual: bool = False) -> None:
    """Refuse a batch that cannot be cut into so many equal shares, naming the numbers that would do.

    ``images`` is how many there are, if that is known yet. Each share is a process's, or ``virtual`` rank's.

    Raises:
        SettingsError: it cannot.
    """
    if batch_size % shares == 0:
        return
    below = batch_size - batch_size % shares
    near = [size for size in (below, below + shares) if 0 < size <= (images or size)]
    sizes = f"--batch-size {' or '.join(map(str, near))}, or " if near else ""
    counts = [n for n in range(1, min(batch_size, 64) + 1) if batch_size % n == 0]
    worlds, powers = (", ".join(map(str, some)) for some in (counts, [n for n in counts if n.bit_count() == 1]))
    raise SettingsError(
        f"--batch-size {batch_size} is the batch of all processes together and cannot be shared equally by {shares}"
        + (f" virtual ranks: use {sizes}--virtual-ranks " if virtual else f": use {sizes}one of ")
        + (f"(one of {powers})" if virtual else f"{worlds} processes")
    )


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut into global batches, shares and micro-batches.

    Each global batch of ``batch_size`` images is cut into equal shares: one for each of ``world`` processes, or one for
    each virtual rank, of which a process computes its own ones one after the other. A share is computed in
    micro-batches of at most ``micro_batch`` images. The epoch's tail that does not fill a batch is left out; it is
    another tail every epoch.
    """

    images: int
    batch_size: int
    micro_batch: int | None
    rank: int
    world: int
    virtual_ranks: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be cut, naming the numbers that could."""
        if self.batch_size > self.images:
            raise SettingsError(f"--batch-size {self.batch_size} is more than the {self.images} training images")
        check_shares(self.batch_size, self.shares, self.images, virtual=self.virtual_ranks is not None)
        own_shares(self.shares, self.rank, self.world)

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        return self.images // self.batch_size

    @property
    def shares(self) -> int:
        """Shares of a global batch."""
        return self.virtual_ranks or self.world

    @property
    def own(self) -> range:
        """Those that this process computes."""
        return own_shares(self.shares, self.rank, self.world)

    @property
    def share(self) -> int:
        """Images of a share."""
        return self.batch_size // self.shares

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a share is computed in."""
        return -(-self.share // min(self.micro_batch or self.share, self.share))

    def share_of(self, seed: int, epoch: int, position: int, number: int) -> list[Indices]:
        """Indices of share ``number`` of batch ``position`` of an epoch (all from 0), a list of micro-batches."""
        start = position * self.batch_size + number * self.share
        images = permutation(seed, epoch, self.images)[start : start + self.share].copy()
        return np.array_split(images, self.micro_batches)
