"""Sums over all shares along one fixed binary tree: the same bits, whichever process computes which share.

Floating-point addition is not associative, so a sum is only the same if its terms are added in the same order. Here
neighbours are added, then neighbouring pairs, and so on: of eight shares ((0+1)+(2+3))+((4+5)+(6+7)). A process has
2^k neighbours, hence a whole subtree, which it adds by itself; the rest of the tree lies between processes. Every
element is summed for itself, so that no layout of memory or of messages shows in the sum.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distrib.lifecycle.background import compute_alone

PRIME = 16_777_213  # the largest below 2^24
RADIX = 1_000_003
PIECE = 2**20  # elements of which a checksum is made at a time: 8 MiB


@dataclass
class Partial:
    """The sum over an aligned subtree of 2^level shares: flat, and as views in the tensors' own shapes."""

    level: int
    flat: Tensor
    views: list[Tensor]


class TreeSum:
    """Sums tensors of the shapes of ``like``, all of one data type and on one device, over a process's own shares.

    It keeps a stack of partial sums, at most one of each level, as a counter in binary has one digit of each place.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._like = list(like)
        self._stack: list[Partial] = []
        self._free: list[Partial] = []

    def begin(self) -> None:
        """Forget the sums."""
        self._free += self._stack
        self._stack.clear()

    @torch.no_grad()
    def add(self, values: list[Tensor]) -> None:
        """Take in the values of the next share; they are not kept."""
        if self._stack and self._stack[-1].level == 0:  # the left one of a pair waits
            torch._foreach_add_(self._stack[-1].views, values)
            self._stack[-1].level = 1
        else:
            fresh = self.spare()
            torch._foreach_copy_(fresh.views, values)
            fresh.level = 0
            self._stack.append(fresh)
        while len(self._stack) > 1 and self._stack[-1].level == self._stack[-2].level:
            right = self._stack.pop()
            left = self._stack[-1]
            left.flat.add_(right.flat)
            left.level += 1
            self._free.append(right)

    def spare(self) -> Partial:
        """A buffer that nobody uses."""
        if self._free:
            return self._free.pop()
        flat = torch.empty(sum(t.numel() for t in self._like), dtype=self._like[0].dtype, device=self._like[0].device)
        parts = flat.split([t.numel() for t in self._like])
        views = [
            # In the memory format of the tensor itself, where its elements lie side by side in some order.
            part.as_strided(t.size(), t.stride()) if _is_dense(t) else part.view(t.size())
            for part, t in zip(parts, self._like, strict=True)
        ]
        return Partial(0, flat, views)

    @torch.no_grad()
    def finish(self, rank: int, world: int, shares: int) -> None:
        """Go on between processes, then divide by the number of shares.

        By recursive halving and doubling (Thakur, Rabenseifner and Gropp, 2005): in round k a process halves the
        elements it is responsible for with the one whose rank differs in bit k, and adds the other's sums of its own
        half; afterwards finished parts come back the same way. So each process sends 2 (world - 1) / world times the
        elements, in 2 log2(world) rounds. Whoever adds an element adds left to right.

        Raises:
            RuntimeError: another process is lost.
        """
        (total,) = self._stack
        if world > 1:
            other = self.spare()
            self._free.append(other)
            for kept, given, peer in (rounds := list(halves(total.flat.numel(), rank, world))):
                exchange(peer, total.flat[given], other.flat[kept])
                left, right = (other, total) if peer < rank else (total, other)
                torch.add(left.flat[kept], right.flat[kept], out=total.flat[kept])
            for kept, given, peer in reversed(rounds):
                exchange(peer, total.flat[kept], total.flat[given])
        total.flat.div_(shares)

    @property
    def flat(self) -> Tensor:
        """The mean over all shares, one element after the other; until :meth:`begin`."""
        return self._stack[0].flat

    @property
    def total(self) -> list[Tensor]:
        """The mean over all shares, in the tensors' shapes; until :meth:`begin`."""
        return self._stack[0].views


def checksum(tensors: Iterable[Tensor]) -> Tensor:
    """A number below 2^24, which a float32 holds, of the bits of float32 vectors and of their order: an int64 scalar.

    The bits of each element as a whole number, times its place, are summed, and the sums of pieces combined as digits
    are, all modulo a prime. It is the same for other bits about once in sixteen million times.
    """
    found: Tensor | None = None
    for tensor in tensors:
        for piece in tensor.view(torch.int32).split(PIECE):
            places = torch.arange(1, 2 * len(piece), 2, device=piece.device)
            value = places.mul_(piece).sum() % PRIME
            found = value if found is None else (found * RADIX + value) % PRIME
    assert found is not None
    return found


def halves(elements: int, rank: int, world: int) -> Iterator[tuple[slice, slice, int]]:
    """By round: the elements that a process goes on with, those that it leaves to a peer, and the peer's rank."""
    begin, end, step = 0, elements, 1
    while step < world:
        middle = (begin + end) // 2
        lower, upper = slice(begin, middle), slice(middle, end)
        kept, given = (upper, lower) if rank & step else (lower, upper)
        yield kept, given, rank ^ step
        begin, end, step = kept.start, kept.stop, 2 * step


def exchange(peer: int, sent: Tensor, received: Tensor) -> None:
    """Send and receive at once; what is empty is left out, as it is on the other side."""
    operations = [
        dist.P2POp(call, part, peer) for call, part in ((dist.isend, sent), (dist.irecv, received)) if len(part)
    ]
    if operations:
        for work in dist.batch_isend_irecv(operations):
            work.wait()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side without gaps, in whatever order of dimensions."""
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()


class Lane:
    """A thread of its own for what goes on beside the backward pass, in order; on a GPU, on a stream of its own.

    After a call that fails no other is made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device) if device.type == "cuda" else None
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], Future[None], torch.cuda.Event | None] | None]
        self._calls, self._waiting = queue.SimpleQueue(), list[Future[None]]()
        # A daemon: a process that fails must not wait for one that waits for it.
        self._thread = threading.Thread(target=self._work, name="lane", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Call it after those before it, once the device has done what it was given up to now."""
        done: Future[None] = Future()
        self._waiting.append(done)
        event = torch.cuda.current_stream(self._device).record_event() if self._stream else None
        self._calls.put((call, done, event))

    def wait(self) -> None:
        """Wait until all calls are done; on a GPU, until they are on their way. Raises what they raised."""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.result()
        if self._stream:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def close(self) -> None:
        """End the thread: Python must not find it in the middle of something when it ends itself."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        compute_alone()
        failure: BaseException | None = None
        while asked := self._calls.get():
            call, done, event = asked
            if failure is not None:
                # The others may not have come so far: what is sent now would meet what they wait for.
                done.set_exception(failure)
                continue
            try:
                with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                    if event and self._stream:
                        self._stream.wait_event(event)
                    call()
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                failure = error
                done.set_exception(error)
