"""What a step is given: micro-batches, on the device by the time they are needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from distrib.images.transfer import send
from distrib.images.workers import IGNORED


@dataclass(frozen=True)
class MicroBatch:
    """Some images of a share: ``pixels`` (n, size, size, 3) uint8 and ``labels`` (n,) int64, on the device.

    ``indices`` (n,) int64 stay with the processor, which draws from them. A label of ``IGNORED`` marks an image, then
    black, that is left out of what is learned.
    """

    indices: Tensor
    pixels: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy to the device; from pinned memory nobody waits for it."""
        return replace(self, pixels=send(self.pixels, device), labels=send(self.labels, device))

    def good(self) -> "MicroBatch":
        """Without images that are left out; with all of them if fewer than two would remain.

        Every process computes as often, and a batch norm of few places needs two images.
        """
        kept = self.labels != IGNORED
        if kept.sum() < 2:
            return self
        return MicroBatch(self.indices[kept], self.pixels[kept], self.labels[kept])


@lru_cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream that copies. But one: what was freed on a stream is kept for it."""
    return torch.cuda.Stream(device)


def on_device(batches: Iterable[MicroBatch], device: torch.device) -> Iterator[MicroBatch]:
    """The batches on the device. A GPU copies the next one while the program uses the one that it was given."""
    return _ahead(batches, device) if device.type == "cuda" else (batch.to(device) for batch in batches)


def _ahead(batches: Iterable[MicroBatch], device: torch.device) -> Iterator[MicroBatch]:
    stream = _copying(device)
    waiting: tuple[MicroBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = batch.to(device), stream.record_event()
        if waiting is not None:
            yield _ready(*waiting)
        waiting = coming
    if waiting is not None:
        yield _ready(*waiting)


def _ready(batch: MicroBatch, copied: torch.cuda.Event) -> MicroBatch:
    """Let the stream that computes wait for the copy, and the allocator keep the memory until it has computed."""
    stream = torch.cuda.current_stream(batch.pixels.device)
    stream.wait_event(copied)
    for tensor in (batch.pixels, batch.labels):
        tensor.record_stream(stream)
    return batch
