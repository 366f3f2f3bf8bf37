"""Snapshots of a run: its state into a checkpoint, without training waiting for the disk, and the way back."""

import sys
import time
from typing import Any

from distrib.images.feed import Feed
from distrib.learning.state import TrainState
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.ending import Failed
from distrib.lifecycle.journal import Journal
from distrib.lifecycle.processes import Processes
from distrib.lifecycle.saving import Saver


class Snapshots:
    """Saves the state of a run, and goes back to what was saved. ``minutes`` is the time between two saves, if any."""

    def __init__(
        self,
        state: TrainState,
        feed: Feed,
        processes: Processes,
        saver: Saver,
        journal: Journal,
        minutes: float | None = None,
    ) -> None:
        self._state, self._feed, self._processes = state, feed, processes
        self._saver, self._journal, self._minutes = saver, journal, minutes
        self._saved_at, self._wait = time.perf_counter(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for another, by this process's clock."""
        return self._minutes is not None and time.perf_counter() - self._saved_at > 60 * self._minutes

    def save(self, *, wait: bool) -> None:
        """Save a checkpoint, in the background unless told to ``wait``. Every process must call it; rank 0 writes."""
        started = time.perf_counter()
        self.note(wait=True)
        groups = self._state.tensors(self._processes)
        if self._processes.is_main:
            facts = {"data": self._feed.facts(), "world_size": self._processes.size}
            self._saver.save(groups, self._state.counters() | facts)
        self._saved_at = time.perf_counter()
        self._wait = self._saved_at - started
        self.note(wait=wait)

    def note(self, *, wait: bool) -> None:
        """Note in the journal what became of the save under way, once it has ended.

        Raises:
            Failed: it failed, and the run is at its end or has no other checkpoint.
        """
        saved = self._saver.outcome(wait=wait)
        if saved is None:
            return
        facts: dict[str, Any] = {"update": saved.update, "epoch": saved.epoch, "seconds": round(saved.seconds, 3)}
        facts["wait"] = round(self._wait, 3)  # of training, for the copy
        if saved.error and self._state.progress.finished:
            raise Failed(f"{saved.error}. Make room and give the same command: it goes on from the one before")
        if saved.error:
            print(f"WARNING: {saved.error}; the older ones stand, and training goes on", file=sys.stderr, flush=True)
            facts["error"] = saved.error
        self._journal.event("checkpoint", **facts)

    def roll_back(self) -> bool:
        """Go back to the weights of the newest checkpoint, and on with the next batch: those since are left out.

        Whether there was one; if not, all stays as it is. Every process must call it.
        """
        self.note(wait=True)
        newest: Checkpoint | None = self._processes.agreed(lambda: checkpoints.newest(self._saver.folder)[0])
        if newest is None:
            return False
        progress = self._state.progress
        place = (progress.update, progress.epoch, progress.sums, progress.bad_updates)
        self._state.restore(newest, self._processes)
        progress.update, progress.epoch, progress.sums, progress.bad_updates = place
        progress.test_top1 = None
        self._journal.event("rollback", update=progress.update, checkpoint=newest.update)
        return True
