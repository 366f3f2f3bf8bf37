"""Averages: of weights over updates (EMA), and of normalisation statistics over processes."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distrib.lifecycle.processes import Processes


class WeightAverage:
    """An exponential moving average of a network's weights and statistics, as a network of its own."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._source = network

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Take in the weights after ``update`` (from 1). Early on it decays faster, so as to forget the first ones."""
        decay = min(self.decay, (1 + update) / (10 + update))
        torch._foreach_lerp_(_floats(self.network), _floats(self._source), 1 - decay)


def _floats(network: nn.Module) -> list[Tensor]:
    """Weights and statistics. Looked up each time: to move a module to a device replaces its buffers."""
    return [*network.parameters(), *statistics(network).values()]


def statistics(network: nn.Module) -> dict[str, Tensor]:
    """The network's floating-point buffers: running means and variances."""
    return {name: buffer for name, buffer in network.named_buffers() if buffer.is_floating_point()}


def stack_statistics(network: nn.Module, processes: Processes) -> dict[str, Tensor]:
    """Every process's statistics, each (world, *shape), by rank, on the host. Every process must call it."""
    buffers = statistics(network)
    if not buffers:
        return {}
    stacked = processes.stack(torch.cat([buffer.flatten() for buffer in buffers.values()])).cpu()
    parts = stacked.split([buffer.numel() for buffer in buffers.values()], dim=1)
    return {n: part.view(-1, *b.shape) for (n, b), part in zip(buffers.items(), parts, strict=True)}


def mean(rows: Tensor) -> Tensor:
    """The mean of rows; bit for bit each of them where all are the same."""
    return rows[0] if bool((rows == rows[0]).all()) else rows.double().mean(0)


def load_statistics(network: nn.Module, values: dict[str, Tensor]) -> None:
    """Overwrite the statistics."""
    for name, buffer in statistics(network).items():
        buffer.copy_(values[name])


@contextmanager
def averaged_statistics(network: nn.Module, processes: Processes) -> Iterator[dict[str, Tensor]]:
    """Within, the network holds the mean of all processes' statistics; after, each its own again.

    Each process normalises by its own share, so their statistics differ. To look at the network, in an evaluation or a
    checkpoint, must not change the run: hence the own ones come back. Gives every process's, as
    :func:`stack_statistics` does; none where there is but one process, whose own are the mean.
    """
    if processes.size == 1:
        yield {}
        return
    own = {name: buffer.clone() for name, buffer in statistics(network).items()}
    stacked = stack_statistics(network, processes)
    load_statistics(network, {name: mean(rows) for name, rows in stacked.items()})
    try:
        yield stacked
    finally:
        load_statistics(network, own)
