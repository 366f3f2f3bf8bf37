"""A whole split as one uint8 tensor, held once for each node however many processes share it."""

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from distrib.images.cropping import centre
from distrib.images.decoding import ImageError, pixels, together
from distrib.images.splits import ArraySplit, Split

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory, where Linux has one
ROOM_LEFT = 2**28  # bytes of shared memory that stay free for the workers of data loaders


class Peers(Protocol):
    """The processes of a run, as far as data needs to know them."""

    @property
    def rank(self) -> int:
        """This process among all."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""

    @property
    def local_size(self) -> int:
        """Number of processes of its node."""

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, by rank. Every process must call it."""


class Resident:
    """Images of a split in memory: ``images`` (n, size, size, 3) uint8, ``labels`` (n,) int64.

    Images that cannot be decoded are left out if ``skip``, else they are an error; ``left_out`` has their messages.

    Raises:
        ImageError: an image cannot be decoded. All processes raise it together.
    """

    def __init__(self, split: Split, size: int, peers: Peers, *, skip: bool) -> None:
        if max(peers.gather(peers.local_size)) == 1:
            images, bad = decode_all(split, size)
        else:
            images, bad = _shared(peers, (len(split.labels), size, size, 3), lambda out: _decode(split, size, out))
        # Nodes with disks of their own may have other bad images; all are to leave out the same ones.
        bad = sorted(dict(chain.from_iterable(peers.gather(bad))).items())
        if bad and not skip:
            raise together(f"{bad[0][1]} ({len(bad)} such images; --on-bad-image skip leaves them out)")
        self.left_out = [message for _, message in bad]
        images, labels = without(images, bad), without(torch.from_numpy(np.array(split.labels, dtype=np.int64)), bad)
        self.images, self.labels = images, labels

    def to(self, device: torch.device) -> Self:
        """Move images and labels to the device."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


Bad = list[tuple[int, str]]


def decode_all(split: Split, size: int) -> tuple[Tensor, Bad]:
    """All images of a split, (n, size, size, 3) uint8, those that could not be decoded black; and which these are."""
    images = torch.zeros((len(split.labels), size, size, 3), dtype=torch.uint8)
    return images, _decode(split, size, images)


def without(rows: Tensor, bad: Bad) -> Tensor:
    """The rows of a split, but those of bad images."""
    if not bad:
        return rows
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[[index for index, _ in bad]] = False
    return rows[kept]


def _decode(split: Split, size: int, out: Tensor) -> Bad:
    """Fill ``out`` with every image; return index and message of those that could not be decoded."""
    if isinstance(split, ArraySplit) and split.pixels.shape[1:3] == (size, size):
        out.copy_(torch.from_numpy(split.pixels))
        return []
    bad: Bad = []
    for index in range(len(split.labels)):
        try:
            out[index] = torch.from_numpy(pixels(centre(split.image(index), size)))
        except ImageError as error:
            bad.append((index, str(error)))
    return bad


def _shared(peers: Peers, shape: tuple[int, ...], fill: Callable[[Tensor], Bad]) -> tuple[Tensor, Bad]:
    """A tensor that the first process of each node fills and the others of the node map; and what was bad here.

    Raises:
        ImageError: a node has no room. All processes raise it together.
    """
    path, bad, failure = None, [], None
    try:
        if peers.local_rank == 0:
            try:
                path = _file(int(np.prod(shape)))
                bad = fill(_mapped(path, shape))
            except OSError as error:
                failure = f"no room to share {np.prod(shape):,} bytes of images between processes: {error}"
        everyone = peers.gather((path, failure))
        for _, failure in everyone:
            if failure is not None:
                raise together(failure)
        # Ranks of a node follow one another, so its first process is local_rank before this one.
        found, _ = everyone[peers.rank - peers.local_rank]
        images = _mapped(found, shape)
        peers.gather(None)
        return images, bad
    finally:  # everybody has it mapped, and the memory now lives as long as they do; or something went wrong
        if path is not None:
            Path(path).unlink()


def _file(size: int) -> str:
    """A new file of ``size`` bytes, in memory where there is room.

    Raises:
        OSError: there is none anywhere. A file with holes would kill whoever writes into one for which there is none.
    """
    _remove_stale(SHARED_MEMORY)  # not elsewhere, where files of other hosts may lie
    in_memory = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > size + ROOM_LEFT
    descriptor, path = tempfile.mkstemp(
        prefix=f"distrib-{_space()}-{os.getpid()}-", dir=SHARED_MEMORY if in_memory else None
    )
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # macOS
            os.truncate(descriptor, size)
    except OSError:
        Path(path).unlink()
        raise
    finally:
        os.close(descriptor)
    return path


def _remove_stale(folder: Path) -> None:
    """Give back memory that processes left behind which were killed while they filled it."""
    for file in folder.glob(f"distrib-{_space()}-*-*"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(file.name.split("-")[2]), 0)
            except ProcessLookupError:
                file.unlink()


def _space() -> int:
    """What process ids are numbers in: containers, of which some share this memory, have ids of their own."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0  # not Linux


def _mapped(path: str, shape: tuple[int, ...]) -> Tensor:
    with open(path, "r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.uint8).view(shape)
