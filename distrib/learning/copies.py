"""Copies of tensors on the host, of which checkpoints are made."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from distrib.lifecycle.background import compute_alone
from distrib.lifecycle.checkpoints import Tensors


class Copies:
    """Copies of groups of tensors on the host, in memory that stays from one time to the next.

    New memory would first have to be found and, page by page, cleared by the system, and only pinned memory is written
    by a GPU itself. So the elements keep the order that they have, too.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensors] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="copies", initializer=compute_alone)
        self._begun: dict[str, Future[None]] = {}

    def of(self, group: str, tensors: Tensors) -> Tensors:
        """Copies of the tensors of a group, which has the same ones every time."""
        kept = self._memory(group, tensors)
        copy(kept, tensors)
        return kept

    def begin(self, group: str, tensors: Tensors) -> Tensors:
        """The same, which hold what they should after :meth:`wait`: until then the tensors must not change.

        A thread copies what lies on the host, beside whatever reads it. What lies elsewhere is copied at once.
        """
        if any(tensor.device.type != "cpu" for tensor in tensors.values()):
            return self.of(group, tensors)
        kept = self._memory(group, tensors)
        self._begun[group] = self._thread.submit(copy, kept, tensors)
        return kept

    def wait(self) -> None:
        """Return once all that was begun is copied; raises what stopped the thread, if something did."""
        for copying in tuple(self._begun.values()):
            copying.result()

    def _memory(self, group: str, tensors: Tensors) -> Tensors:
        if group not in self._kept:
            self._kept[group] = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                for name, tensor in tensors.items()
            }
        return self._kept[group]


@torch.no_grad()
def copy(kept: Tensors, tensors: Tensors) -> None:
    """Copy each tensor into the one of its name."""
    for name, tensor in tensors.items():
        kept[name].copy_(tensor, non_blocking=tensor.is_cuda)  # others could not be waited for below
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


def on_host(tensors: Tensors) -> Tensors:
    """Copies on the CPU."""
    return Copies().of("", tensors)
