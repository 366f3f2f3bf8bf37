"""Processes that are not there: what data and journals need to know of a run's ranks, without a process group."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Solo:
    """One rank, alone on its node: in a world of ``size`` it takes only its own share."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def gather(self, item: Any) -> list[Any]:
        """The others are not there, and would say the same."""
        return [item] * self.size


class Threads:
    """Ranks on nodes of so many each, as threads that really gather from one another."""

    def __init__(self, *nodes: int) -> None:
        self.nodes, self.size = nodes, sum(nodes)
        self._said: list[Any] = [None] * self.size
        self._meeting = threading.Barrier(self.size, timeout=30)

    def run(self, what: Callable[["Rank"], Any]) -> list[Any]:
        """What each rank returns, or raises."""
        ranks = [
            Rank(self, sum(self.nodes[:node]) + at, at, has) for node, has in enumerate(self.nodes) for at in range(has)
        ]

        def tried(rank: Rank) -> Any:
            try:
                return what(rank)
            except Exception as error:  # noqa: BLE001 - to be looked at by the test
                return error

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(tried, ranks))

    def gather(self, rank: int, item: Any) -> list[Any]:
        """A rank that somebody does not answer raises ``BrokenBarrierError``."""
        self._said[rank] = item
        self._meeting.wait()
        said = list(self._said)
        self._meeting.wait()
        return said


@dataclass(frozen=True)
class Rank:
    """One of :class:`Threads`."""

    world: Threads
    rank: int
    local_rank: int
    local_size: int

    @property
    def size(self) -> int:
        return self.world.size

    def gather(self, item: Any) -> list[Any]:
        return self.world.gather(self.rank, item)
