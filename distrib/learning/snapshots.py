"""Snapshots of a run: its state into a checkpoint, without training waiting for the disk, and the way back."""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

from distrib.learning.copies import Copies
from distrib.learning.state import TrainState
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.ending import Failed, say
from distrib.lifecycle.journal import Journal
from distrib.lifecycle.processes import Processes
from distrib.lifecycle.saving import Saver

REACTION = 5.0  # seconds in which all processes have agreed to stop, and have left once it is saved: with some to spare


def short_notice(lead: float, needed: float) -> str:
    """What to say where a run would be killed before it has saved."""
    return (
        f"WARNING: to stop takes this run {needed:.0f} s, but its job says so only {lead:.0f} s before it ends: give "
        f"sbatch --signal=USR2@{math.ceil(2 * needed)}"
    )


@dataclass(frozen=True)
class Timing:
    """When to save."""

    minutes: float | None = None
    """Time between two saves, if any."""
    lead: float | None = None
    """Seconds between a signal to stop and the end, if that is known."""


class Snapshots:
    """Saves the state of a run, and goes back to what was saved.

    ``facts`` are what every checkpoint says besides: what the run is made with.
    """

    def __init__(
        self,
        state: TrainState,
        facts: dict[str, Any],
        processes: Processes,
        saver: Saver,
        journal: Journal,
        timing: Timing,
    ) -> None:
        self._state, self.facts, self._processes = state, facts, processes
        self._saver, self._journal = saver, journal
        self._minutes, self._lead = timing.minutes, timing.lead
        self._saved_at, self._wait = time.perf_counter(), 0.0
        self._error: str | None = None
        self._copies = Copies()

    @property
    def due(self) -> bool:
        """Whether it is time for another, by this process's clock."""
        return self._minutes is not None and time.perf_counter() - self._saved_at > 60 * self._minutes

    def save(self, *, wait: bool) -> None:
        """Save a checkpoint, in the background unless told to ``wait``. Every process must call it; rank 0 writes.

        Call :meth:`copied` before the optimizer's next step.
        """
        started = time.perf_counter()
        self.settle()
        groups = self._state.tensors(self._processes, self._copies)
        if self._processes.is_main:
            self._saver.save(groups, self._state.counters() | self.facts, self._copies.wait)
        self._saved_at = time.perf_counter()
        self._wait = self._saved_at - started
        if wait:
            self.settle(last=self._state.progress.finished)

    def copied(self) -> None:
        """Wait until the last save has its copies of all that the optimizer's next step changes."""
        started = time.perf_counter()
        self._copies.wait()
        self._wait += time.perf_counter() - started

    def settle(self, *, last: bool = False) -> None:
        """Wait until nothing is being written. Every process must call it.

        Raises:
            Failed: on all processes; what was written last failed, and it was the run's ``last`` or it has no other.
        """
        self._processes.agreed(lambda: self._check(last=last))

    def _check(self, *, last: bool) -> None:
        self.note(wait=True)
        if self._error is None:
            return
        if not checkpoints.every(self._saver.folder):
            raise Failed(f"{self._error}, and there is no older one. Make room, or choose another --out")
        if last:
            raise Failed(f"{self._error}. Make room and give the same command: it goes on from the one before")

    def note(self, *, wait: bool) -> None:
        """Note in the journal what became of the save under way, once it has ended."""
        saved = self._saver.outcome(wait=wait)
        if saved is None:
            return
        facts: dict[str, Any] = {"update": saved.update, "epoch": saved.epoch, "seconds": round(saved.seconds, 3)}
        facts["wait"] = round(self._wait, 3)  # of training, for the copies
        self._error = saved.error
        if saved.error:
            say(f"WARNING: {saved.error}; training goes on", sys.stderr)
            facts["error"] = saved.error
        elif self._lead is not None and (needed := REACTION + self._wait + saved.seconds) > self._lead:
            say(short_notice(self._lead, needed), sys.stderr)
            self._lead = None  # said once
        self._journal.event("checkpoint", **facts)

    def _newest(self) -> Checkpoint | None:
        newest, messages = checkpoints.newest(self._saver.folder)
        for message in messages:
            say(message, sys.stderr)
        return newest

    def roll_back(self) -> bool:
        """Go back to the weights of the newest checkpoint, and on with the next batch: those since are left out.

        Whether there was one; if not, all stays as it is. Every process must call it.
        """
        self.settle()
        newest: Checkpoint | None = self._processes.agreed(self._newest)
        if newest is None:
            return False
        progress = self._state.progress
        place = (progress.update, progress.epoch, progress.sums, progress.bad_updates)
        self._state.restore(newest, self._processes)
        progress.update, progress.epoch, progress.sums, progress.bad_updates = place
        progress.test_top1 = None
        self._journal.event("rollback", update=progress.update, checkpoint=newest.update)
        return True
