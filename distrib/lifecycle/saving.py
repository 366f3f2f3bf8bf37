"""Saving in the background: a thread waits for the copies on the host, and for the disk."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrib.lifecycle import checkpoints
from distrib.lifecycle.background import compute_alone
from distrib.lifecycle.checkpoints import Tensors


@dataclass(frozen=True)
class Saved:
    """What became of a save."""

    update: int
    epoch: int
    seconds: float
    """Time the thread took."""
    error: str | None
    """Why there is no checkpoint, if so."""


class Saver:
    """Writes checkpoints below ``folder``, one at a time, on rank 0.

    ``keeps`` says which of the older ones stay. ``before`` is called in the thread before a checkpoint is written: what
    lies beside it on the disk must not be older than it.
    """

    def __init__(self, folder: Path, keeps: checkpoints.Retention, before: Callable[[], None]) -> None:
        self.folder, self._keeps, self._before = folder, keeps, before
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saver", initializer=compute_alone)
        self._writing: Future[Saved] | None = None

    def save(self, groups: dict[str, Tensors], state: dict[str, Any], copied: Callable[[], None]) -> None:
        """Begin to save copies that nobody will change, whole once ``copied`` returns.

        The save before must have been waited for.
        """
        assert self._writing is None
        self._writing = self._thread.submit(self._write, groups, state, copied)

    def outcome(self, *, wait: bool) -> Saved | None:
        """What became of the save under way: None if there is none or, unless told to ``wait``, if it still goes on."""
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return None
        self._writing = None
        return writing.result()

    def _write(self, groups: dict[str, Tensors], state: dict[str, Any], copied: Callable[[], None]) -> Saved:
        started, error = time.perf_counter(), None
        copied()
        try:
            self._before()
            checkpoints.save(self.folder, groups, state, self._keeps)
        except OSError as failure:
            error = f"the checkpoint of update {state['update']} could not be written ({failure})"
        return Saved(state["update"], state["epoch"], time.perf_counter() - started, error)
