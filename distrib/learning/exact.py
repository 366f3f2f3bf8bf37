"""Exact training: the same weights, bit for bit, on any number of processes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distrib.learning.averaging import statistics
from distrib.learning.tree import Lane, TreeSum, checksum
from distrib.lifecycle.processes import Processes

BUCKET = 2**22  # elements, about, that are summed and sent together: 16 MiB in fp32


class Bucket:
    """Parameters whose gradients become ready about the same time, and the sum of these over shares."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.sum = parameters, TreeSum(parameters)
        self.missing = 0
        """Gradients of the share that are not ready yet."""

    def take(self) -> None:
        """Add the share's gradients to the sum, and let go of them."""
        # A parameter without a gradient took no part in the loss, of any share.
        self.sum.add([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None


class Exact:
    """As many shares as there are virtual ranks, each computed alike wherever that is, and summed along a tree.

    What a share gives depends on nothing but itself: it starts from the same statistics as the others and has its own
    generator, its micro-batches have the same shapes, and its kernels run on as many threads. Only who computes which
    share depends on the number of processes, and :mod:`distrib.learning.tree` lets nobody see that in the sum.

    Gradients go to the other processes bucket by bucket, in a fixed order, while the backward pass of the last share
    goes on.
    """

    compression = None

    def __init__(self, network: nn.Module, processes: Processes, virtual_ranks: int) -> None:
        # As for evaluation: that leaves out DDP, and nothing else.
        self.network = processes.accelerator.prepare_model(network, evaluation_mode=True)
        self._processes, self._shares = processes, virtual_ranks
        self._own = virtual_ranks // processes.size
        self._lane = Lane(processes.device) if processes.size > 1 else None
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # Gradients become ready from the last layer to the first.
        self._buckets = [Bucket(parameters) for parameters in in_buckets(trainable[::-1])]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))
        self._buffers, self._statistics = list(network.buffers()), list(statistics(network).values())
        self._statistics_sum = TreeSum(self._statistics)
        self._trees = [*(bucket.sum for bucket in self._buckets), *([self._statistics_sum] if self._statistics else [])]
        self._first: list[Tensor] = []
        self._computed, self._next, self._complete = 0, 0, False
        if processes.size > 1:
            for tensor in (*network.parameters(), *self._buffers):
                dist.broadcast(tensor.detach(), 0)

    def begin(self, _: int) -> None:
        """Remember the statistics that every share starts from."""
        self._first = [buffer.clone() for buffer in self._buffers]
        self._computed = 0
        for tree in self._trees:
            tree.begin()

    def computing(self, *, last: bool) -> AbstractContextManager[None]:
        """The gradients of a share's last micro-batch complete those of the share."""
        return self._completing() if last else nullcontext()

    @contextmanager
    def _completing(self) -> Iterator[None]:
        self._next, self._complete = 0, True
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        yield
        self._complete = False
        for bucket in self._buckets:
            bucket.missing = 0
        self._take_complete()
        if self._statistics:
            self._statistics_sum.add(self._statistics)
        self._computed += 1
        if self._computed < self._own:
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._first)
        elif self._statistics:
            self._go_on(self._statistics_sum)

    def _arrived(self, bucket: Bucket, _parameter: Tensor) -> None:
        """A gradient is ready."""
        if self._complete:
            bucket.missing -= 1
            self._take_complete()

    def _take_complete(self) -> None:
        """Add what is complete to the sums, in the order of the buckets: every process sends them in the same one."""
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            bucket = self._buckets[self._next]
            bucket.take()
            if self._computed == self._own - 1:
                self._go_on(bucket.sum)
            self._next += 1

    def _go_on(self, tree: TreeSum) -> None:
        """The process's own sum is complete: sum it over all."""
        finish = partial(tree.finish, self._processes.rank, self._processes.size, self._shares)
        if self._lane is None:
            finish()
        else:
            self._lane.submit(finish)

    def finish(self) -> Tensor:
        """Give each parameter its gradient, and each buffer its statistics: the means over all shares.

        Returns a checksum of both, a whole number as float32: the first update in which two runs differ is known by it,
        though the loss that follows may round the difference away.

        Raises:
            RuntimeError: another process is lost.
        """
        if self._lane is not None:
            self._lane.wait()
        for bucket in self._buckets:
            for parameter, mean in zip(bucket.parameters, bucket.sum.total, strict=True):
                parameter.grad = mean
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._statistics_sum.total)
        return checksum([tree.flat for tree in self._trees]).float()

    def close(self) -> None:
        """No update follows."""
        if self._lane is not None:
            self._lane.close()


def in_buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in their order, in lists of one data type and about :data:`BUCKET` elements."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(p.numel() for p in bucket) >= BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
