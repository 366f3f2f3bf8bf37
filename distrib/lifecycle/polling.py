"""Questions to all processes that cost next to nothing."""

import time
from collections.abc import Callable

import torch

from distrib.lifecycle.processes import Processes

REACTION = 0.5  # seconds between two questions: a run that is asked to stop does so within two
MOST = 100  # calls between two questions: the next ones may take longer


class Poll:
    """Asks all processes together, once a second or so, whether any of them wants something.

    ``ask`` gives what this process wants, as numbers. Between two questions no process waits for another; how many
    calls go by follows from how long they took on the slowest process, so that all ask at the same call.
    """

    def __init__(self, ask: Callable[[], list[float]], processes: Processes) -> None:
        self._ask, self._processes = ask, processes
        self._calls, self._interval, self._asked = 0, 1, time.perf_counter()

    def __call__(self) -> list[bool]:
        """For each number, whether any process wants it. Every process must call this equally often."""
        wanted = self._ask()
        if self._processes.size == 1:
            return [want > 0 for want in wanted]
        self._calls += 1
        if self._calls < self._interval:
            return [False] * len(wanted)
        seconds = (time.perf_counter() - self._asked) / self._calls
        mine = torch.tensor([*wanted, seconds], device=self._processes.device)
        *most, slowest = self._processes.stack(mine).amax(0).tolist()
        self._calls, self._interval = 0, min(max(1, int(REACTION / max(slowest, 1e-6))), MOST)
        self._asked = time.perf_counter()
        return [want > 0 for want in most]
