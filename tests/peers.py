"""Processes that are not there: what data and journals need to know of a run's ranks, without a process group."""

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
        assert self.size == 1, "nobody else is there to gather from"
        return [item]
