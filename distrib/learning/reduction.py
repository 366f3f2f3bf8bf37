"""How the shares of an update become one gradient: all that fast and exact training do differently."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distrib.images.feed import Feed
from distrib.learning.compression import PowerSGD, compress
from distrib.lifecycle.processes import Processes
from distrib.settings import Comm


class Reduction(Protocol):
    """Makes the mean of all shares' gradients out of what every process computes for its own shares."""

    @property
    def network(self) -> nn.Module:
        """What computes the logits, prepared by Accelerate."""

    @property
    def compression(self) -> PowerSGD | None:
        """What sends the gradients approximated, if they are."""

    def begin(self, update: int) -> None:
        """The update with index ``update`` (from 0) begins."""

    def computing(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of a micro-batch, the ``last`` of its share or not."""

    def finish(self) -> Tensor:
        """The last share was computed. Afterwards the parameters' gradients are the mean over all shares.

        Returns a checksum of their bits, a whole number as a float32 scalar; -1 where nobody is to compare it.
        """

    def close(self) -> None:
        """No update follows, and no process was lost."""


class DataParallel:
    """One share for each process, summed by DDP while the backward pass goes on: fast.

    Each process keeps the statistics of its own share; they are averaged when somebody looks at them.
    """

    def __init__(self, network: nn.Module, processes: Processes, *, comm: Comm = "fp32", updates: int = 0) -> None:
        self.network, self._processes = processes.accelerator.prepare_model(network), processes
        self.compression: PowerSGD | None = None
        self._no_checksum = torch.tensor(-1.0, device=processes.device)
        if isinstance(self.network, DistributedDataParallel):
            self.network.broadcast_buffers = False
            self.compression = compress(self.network, comm, updates)

    def begin(self, update: int) -> None:
        """Tell what counts updates."""
        if self.compression is not None:
            self.compression.begin(update)

    def computing(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are summed over processes once, with the last micro-batch."""
        return nullcontext() if last else self._processes.accelerator.no_sync(self.network)

    def finish(self) -> Tensor:
        """DDP has done it all."""
        return self._no_checksum

    def close(self) -> None:
        """Nothing to end."""

    def warm_up(self, feed: Feed, *, channels_last: bool, compiled: bool) -> None:
        """Run two throw-away backward passes; afterwards all is as before, but for the layout of DDP's buckets.

        In its first backward pass DDP learns the order in which gradients become ready, and lays out its buckets anew
        before the second. With three processes or more a sum depends on the layout in its last bits: a run that goes on
        from a checkpoint would compute its first update in the first layout, where the run that nothing interrupted
        computed it in the second. So both begin in the second. Two images are enough, as the order does not depend on
        their number; a compiled network is given as many as in training, or it would be compiled for both.
        """
        network = self.network
        if not isinstance(network, DistributedDataParallel):
            return
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        size = feed.preprocessing.size
        rows = -(-feed.plan.share // feed.plan.micro_batches) if compiled else 2
        pixels = torch.zeros(rows, size, size, 3, dtype=torch.uint8, device=self._processes.device)
        network.train()
        for _ in range(2):
            # Updates seed the generators for themselves: what dropout draws here changes nothing.
            images = feed.preprocessing.normalise(pixels, channels_last=channels_last, dtype=self._processes.dtype)
            network(images).sum().backward()
            network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
