"""Gradients that DDP sends in fewer bytes: torch's hooks, and what a run needs to go on with them.

PowerSGD (https://arxiv.org/abs/1905.13727) sends, of the gradient of each matrix of weights, two thin factors; what
they leave out is added to the next gradient, by each process for itself. These remainders and the factors from which
the next ones are computed are as much a part of a run's state as momentum is.
"""

import numpy as np
import torch
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined] # torch does not say that it exports it
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from distrib.lifecycle.checkpoints import Tensors
from distrib.lifecycle.processes import Processes
from distrib.settings import Comm

RANK = 4  # columns of a factor, of those that the paper tries
WHOLE = 1000  # updates at first whose gradients are sent as they are, as torch advises; a tenth of a shorter run
SEED = 0  # of the first factors
_KINDS = ("error", "p", "q")


class PowerSGD:
    """Approximates gradients by matrices of low rank."""

    def __init__(self, network: DistributedDataParallel, updates: int) -> None:
        self._state = PowerSGDState(
            None,
            matrix_approximation_rank=RANK,
            random_seed=SEED,
            start_powerSGD_iter=max(2, min(WHOLE, updates // 10)),
            orthogonalization_epsilon=1e-8,  # gradients may vanish
        )
        self._before: dict[int, tuple[Tensor | None, ...]] = {}  # by bucket, what _changed held before the last update
        network.register_comm_hook(None, self._hook)

    @property
    def _changed(self) -> tuple[dict[int, Tensor], ...]:
        """What an update leaves to the next one, by bucket."""
        return self._state.error_dict, self._state.q_memory_dict

    @property
    def _memories(self) -> dict[str, dict[int, Tensor]]:
        state = self._state
        return dict(zip(_KINDS, (state.error_dict, state.p_memory_dict, state.q_memory_dict), strict=True))

    def begin(self, update: int) -> None:
        """The update with index ``update`` begins: it may be the first after a restart."""
        self._state.iter = update

    def _hook(self, _: None, bucket: GradBucket) -> Future[Tensor]:
        """Torch's hook; what it will change is kept, as the update may turn out to be one that is left out."""
        index = bucket.index()
        self._before[index] = tuple(m[index].clone() if index in m else None for m in self._changed)
        future = powerSGD_hook(self._state, bucket)
        if not bucket.buffer().is_cuda:
            future.wait()  # gloo's threads would order those of two buckets differently on each process, and it aborts
        return future

    def undo(self, bad: Tensor) -> None:
        """If the last update was ``bad``, a boolean scalar on the device, it is left out: remember nothing of it."""
        for index, before in self._before.items():
            for memory, kept in zip(self._changed, before, strict=True):
                if index in memory:
                    memory[index] = torch.where(bad, _first(memory[index]) if kept is None else kept, memory[index])
        self._before.clear()

    def tensors(self, processes: Processes) -> Tensors:
        """Remainders and factors, (world, n) each, a row for each process, on rank 0's host; the others get none.

        Every process must call it.
        """
        found = {}
        for kind, memory in self._memories.items():
            for bucket, tensor in sorted(memory.items()):
                rows = processes.stack(tensor)
                if processes.is_main:
                    found[f"{kind}/{bucket}"] = rows.cpu()
        return found

    def load(self, tensors: Tensors, processes: Processes) -> None:
        """Go back to those tensors. Where another number of processes wrote them, remainders begin at zero."""
        self._state.rng = np.random.RandomState(SEED)  # which draws the first factors, if none are there
        for memory in self._memories.values():
            memory.clear()
        for name, rows in tensors.items():
            kind, _, bucket = name.partition("/")
            if len(rows) == processes.size:
                self._memories[kind][int(bucket)] = rows[processes.rank].to(processes.device)


def _first(tensor: Tensor) -> Tensor:
    """What may stand in the place of a remainder or of factors of which there were none yet: noise of no size."""
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor) * 1e-6


def compress(network: DistributedDataParallel, comm: Comm, updates: int) -> PowerSGD | None:
    """Let DDP send gradients as ``--comm`` asks, in a run of so many updates; return what has a state of its own."""
    if comm == "bf16":
        network.register_comm_hook(None, bf16_compress_hook)
    return PowerSGD(network, updates) if comm == "powersgd" else None
