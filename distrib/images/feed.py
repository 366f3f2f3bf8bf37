"""The feed: a process's share of every update, and of the test images, as micro-batches on the device."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distrib.images.augmentation import BatchAugmentation
from distrib.images.batches import MicroBatch, on_device
from distrib.images.cropping import centre
from distrib.images.decoding import ImageError, together
from distrib.images.growth import Growth
from distrib.images.order import Indices, Plan, own_shares
from distrib.images.resident import Peers, Resident, decode_all, without
from distrib.images.splits import ImageData, Split
from distrib.images.transfer import send
from distrib.images.workers import Decoding, WorkerLoader, worker_count
from distrib.settings import Settings, SettingsError

SMALLEST = 8  # pixels of a side, as for --image-size
SMALL = 64  # pixels up to which images are small: kept at their own size and in memory
ROOM = 2**31  # bytes that a split may take in memory
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST_BATCH, TEST_BYTES = 512, 2**24  # images of one process at once, at most; each worker keeps two such batches ready


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into the network's input, and its output into a class: all that prediction needs."""

    size: int
    """Side of the input, pixels."""
    mean: tuple[float, ...]
    """Of each channel, of 1."""
    std: tuple[float, ...]
    """Of each channel, of 1."""
    classes: tuple[str, ...]
    """Class names by index."""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "Preprocessing":
        """From the JSON form of :func:`dataclasses.asdict`."""
        mean, std, classes = (tuple(saved[name]) for name in ("mean", "std", "classes"))
        return cls(size=saved["size"], mean=mean, std=std, classes=classes)

    def normalise(self, pixels: Tensor, *, channels_last: bool, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images (n, size, size, 3) uint8 to (n, 3, size, size) of mean 0 and deviation 1, computed as float32."""
        count, height, width, channels = pixels.shape
        # A row of pixels at once: three numbers at a time, a processor's vectors would be all but empty.
        mean, scale = _mean_and_scale(self.mean, self.std, width, pixels.device)
        rows = pixels.reshape(count, height, width * channels).to(torch.float32).sub_(mean).mul_(scale).to(dtype)
        normalised = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
        return normalised if channels_last else normalised.contiguous()


@lru_cache
def _mean_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each number of a row of pixels; kept on the device: to make them for each batch would wait for the device."""
    first, second = torch.tensor(mean, device=device) * 255, 1 / (torch.tensor(std, device=device) * 255)
    return first.repeat(width), second.repeat(width)


class Source:
    """Reads one split, from memory or through workers, onto the device.

    Raises:
        ImageError: an image cannot be decoded and is not to be skipped; here or while reading.
    """

    def __init__(self, settings: Settings, decoding: Decoding, peers: Peers, device: torch.device) -> None:
        self.device, self.skip = device, settings.data.on_bad_image == "skip"
        self.whole = settings.compute.compiled  # for each number of images it would be compiled anew
        self.left_out: set[str] = set()
        """Images that this process could not decode."""
        self.loader: Resident | WorkerLoader
        if in_memory(settings, decoding):
            self.loader = Resident(decoding.split, decoding.size, peers, skip=self.skip).to(device)
            self.left_out.update(self.loader.left_out)
            self.images = len(self.loader.labels)
        else:
            workers = worker_count(settings.data.workers, peers.local_size)
            self.loader = WorkerLoader(decoding, workers, pin=device.type == "cuda")
            self.images = len(decoding.split.labels)
        if self.images == 0:
            raise together(f"no image is left of the {len(decoding.split.labels)}: none could be decoded")

    def read(self, epoch: int, lists: list[Indices]) -> Iterator[MicroBatch]:
        """The images of these lists of indices, in their order."""
        if isinstance(self.loader, Resident):
            for indices in lists:
                rows = torch.from_numpy(indices)
                picked = send(rows, self.device)
                yield MicroBatch(rows, self.loader.images.index_select(0, picked), self.loader.labels[picked])
            return
        bad: deque[list[str]] = deque()  # of the batches that are on their way
        for batch in on_device(self._decoded(epoch, lists, bad), self.device):
            if (found := bad.popleft()) and not self.skip:
                raise ImageError(f"{found[0]} (--on-bad-image skip leaves such images out)")
            self.left_out.update(found)
            yield batch

    def _decoded(self, epoch: int, lists: list[Indices], bad: deque[list[str]]) -> Iterator[MicroBatch]:
        assert isinstance(self.loader, WorkerLoader)
        for indices, decoded in zip(lists, self.loader(epoch, lists), strict=True):
            bad.append(decoded.bad)
            batch = MicroBatch(torch.from_numpy(indices), decoded.images, decoded.labels)
            yield batch.good() if decoded.bad and not self.whole else batch


class TestFeed:
    """Gives each process its part of the test images: over all processes each image comes exactly once."""

    __test__ = False  # for pytest, which takes it for a test

    def __init__(
        self, split: Split, preprocessing: Preprocessing, settings: Settings, peers: Peers, device: torch.device
    ) -> None:
        self.preprocessing, self.peers = preprocessing, peers
        self._shares = settings.compute.shares(peers.size)
        self._decoding = Decoding(split, preprocessing.size, seed=settings.compute.seed)
        self.source = Source(settings, self._decoding, peers, device)
        self.images = self.source.images

    def image(self, index: int) -> Image.Image:
        """One image as the network sees it, but for the normalisation."""
        loader = self.source.loader
        if isinstance(loader, Resident):
            return Image.fromarray(loader.images[index].cpu().numpy())
        return centre(self._decoding.split.image(index), self._decoding.size)

    @property
    def batches(self) -> int:
        """Micro-batches of the process that has the most of them."""
        counts = [len(lists) for lists in self._lists()]
        return max(sum(counts[n] for n in self._own(rank)) for rank in range(self.peers.size))

    def __iter__(self) -> Iterator[MicroBatch]:
        """This process's part, in micro-batches."""
        lists = self._lists()
        return self.source.read(0, [part for n in self._own(self.peers.rank) for part in lists[n]])

    def _lists(self) -> list[list[Indices]]:
        """By share, its micro-batches. None holds images of two shares: no sum is to depend on who has which share."""
        shares = np.array_split(np.arange(self.images), self._shares)
        batch = min(TEST_BATCH, max(1, TEST_BYTES // (3 * self.preprocessing.size**2)))
        return [[share[at : at + batch] for at in range(0, len(share), batch)] for share in shares]

    def _own(self, rank: int) -> range:
        return own_shares(self._shares, rank, self.peers.size)


class Feed:
    """Gives each process its share of every update; over all processes, the same images whatever their number.

    Raises:
        SettingsError: the batch cannot be shared equally, or settings contradict what the data set is.
        ImageError: an image cannot be decoded.
    """

    def __init__(self, data: ImageData, settings: Settings, peers: Peers, device: torch.device) -> None:
        self.data, self.seed = data, settings.compute.seed
        size = settings.data.image_size or own_size(data.train)
        self.source = Source(settings, Decoding.of(data.train, size, settings), peers, device)
        self.augment = BatchAugmentation.of(settings.augmentation, seed=self.seed, size=size, mirrored=data.mirrored)
        mean, std = self._statistics(size, peers)
        self.preprocessing = Preprocessing(size, mean, std, data.classes)
        self.test = TestFeed(data.test, self.preprocessing, settings, peers, device)
        self._fingerprint = {"train": data.train.fingerprint(), "test": data.test.fingerprint()}
        optimization, compute = settings.optimization, settings.compute
        self.plan = Plan(
            self.source.images,
            optimization.batch_size,
            optimization.micro_batch,
            peers.rank,
            peers.size,
            compute.virtual_ranks if compute.exact else None,
        )
        updates = self.plan.updates_per_epoch * optimization.epochs
        self.growth = Growth.of(settings.augmentation, size=size, updates=updates)

    def _statistics(self, size: int, peers: Peers) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of small training images, and ImageNet's for others, however they are loaded."""
        if not fits(self.data.train, size):
            return IMAGENET_MEAN, IMAGENET_STD
        if isinstance(self.source.loader, Resident):
            return channel_statistics(self.source.loader.images)
        found: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if peers.rank == 0 and len(images := self._plain(len(self.data.train.labels), size)):
            found = channel_statistics(images)
        if (statistics := peers.gather(found)[0]) is None:
            raise together("none of the training images could be decoded")
        return statistics

    def _plain(self, count: int, size: int) -> Tensor:
        """Of the first ``count`` training images those that can be decoded, without what varies them."""
        return without(*decode_all(self.data.train.head(count), size))

    def facts(self) -> dict[str, Any]:
        """What the data set is, for a checkpoint: a run must not go on with another."""
        counts = {"train_images": self.images, "test_images": self.test.images}
        return {"preprocessing": asdict(self.preprocessing), **counts, "fingerprint": self._fingerprint}

    @property
    def images(self) -> int:
        """Number of training images."""
        return self.source.images

    @property
    def left_out(self) -> set[str]:
        """Images that this process could not decode."""
        return self.source.left_out | self.test.source.left_out

    def train(self, epoch: int, position: int = 0) -> Iterator[MicroBatch]:
        """This process's micro-batches of epoch ``epoch`` (from 0), from its update ``position`` (from 0) on.

        In an update come those of its first share, then those of the next.
        """
        plan = self.plan
        places = [(at, number) for at in range(position, plan.updates_per_epoch) for number in plan.own]
        lists = [part for at, number in places for part in plan.share_of(self.seed, epoch, at, number)]
        for count, batch in enumerate(self.source.read(epoch, lists)):
            at, _ = places[count // plan.micro_batches]
            varied = self.augment(batch.pixels, batch.indices, epoch)
            yield replace(batch, pixels=self.growth(varied, epoch * plan.updates_per_epoch + at))

    def examples(self, count: int) -> Tensor:
        """Good ones of the first ``count`` training images, normalised: (n, 3, size, size) float32, on the device."""
        loader, size = self.source.loader, self.preprocessing.size
        found = loader.images[:count] if isinstance(loader, Resident) else self._plain(count, size)
        return self.preprocessing.normalise(found.to(self.source.device), channels_last=True)


def own_size(split: Split) -> int:
    """The size at which images are used unless told: that of the first good one from 8 to 64 pixels, else 224."""
    for index in range(len(split.labels)):
        try:
            sides = split.image(index).size
        except ImageError:
            continue
        return max(SMALLEST, min(sides)) if max(sides) <= SMALL else 224
    raise ImageError(f"none of the training images can be decoded, from {split.where(0)} on")


def in_memory(settings: Settings, decoding: Decoding) -> bool:
    """Whether a split is decoded once into memory.

    Raises:
        SettingsError: memory was asked for with an augmentation that works on one decoded image at a time.
    """
    loading = settings.data.loading
    if loading == "memory" and decoding.varies:
        raise SettingsError(
            "--policy and --crop resized, which --crop auto is above 64 pixels, work image by image: they need "
            "--loading workers (or auto)"
        )
    return loading == "memory" or (loading == "auto" and fits(decoding.split, decoding.size) and not decoding.varies)


def fits(split: Split, size: int) -> bool:
    """Whether a split is small enough to lie in memory."""
    return size <= SMALL and len(split.labels) * size**2 * 3 <= ROOM


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of (n, h, w, 3) uint8 images, of 1, to 4 places.

    They are those of the whole set of pixels, not the mean of each image's own deviation, which is often copied.
    """
    total, squares = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for part in images.split(4096):  # in integers, so that the sum does not depend on its order
        values = part.reshape(-1, 3).to(torch.int32)
        total += values.sum(0, dtype=torch.int64).cpu()
        squares += values.square().sum(0, dtype=torch.int64).cpu()
    count = images.numel() / 3
    mean = (total.double() / count).tolist()
    deviation = [max(s / count - m * m, 1.0) ** 0.5 for s, m in zip(squares.tolist(), mean, strict=True)]
    return tuple(round(m / 255, 4) for m in mean), tuple(round(d / 255, 4) for d in deviation)
