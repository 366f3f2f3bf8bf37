"""Training loops in processes of their own, of which one at a time runs while the others stand still."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from interleaved import Measure

ROOT = Path(__file__).resolve().parents[1]
POLL = 0.01  # seconds between looks at a journal, by which a measurement may be off


@dataclass(frozen=True)
class Pace:
    """Of a loop: images of an update; updates that warm it up, that a report tells of, that are measured each time."""

    images: int
    warm_up: int
    every: int
    updates: int


@contextmanager
def contestant(command: list[object], journal: Path, pace: Pace) -> Iterator[Measure]:
    """Start a loop, warm it up and stop it where it is; yields what lets it go on for a while, and tells its images/s.

    With the loop all processes that it starts stop and go on. So pairs may be as short as a few updates, without a
    start for each, and what else the machine does for longer than that meets both of a pair.

    ``journal`` is what the loop writes: JSON lines, of which those with ``images_per_second`` tell that an ``update``
    is done. A loop stops as soon as it told of one, so that whole updates are measured.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603
            [str(word) for word in command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            loop = _Loop(process, log, journal, pace)
            loop.run_until(pace.warm_up)
            loop.stop()
            yield loop.rate
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Loop:
    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes], journal: Path, pace: Pace) -> None:
        self.process, self.log, self.journal, self.pace = process, log, journal, pace
        self.read, self.done = 0, 0  # bytes of the journal, and the update that it told of last

    def rate(self) -> float:
        """Images/s of some updates."""
        first, started = self.done, time.perf_counter()
        os.killpg(self.process.pid, signal.SIGCONT)
        self.run_until(first + self.pace.updates)
        seconds, updates = time.perf_counter() - started, self.done - first
        self.stop()
        return updates * self.pace.images / seconds

    def run_until(self, update: int) -> None:
        """Wait until the journal tells of that update. Raises SystemExit if the loop ended."""
        while self.done < update:
            time.sleep(POLL)
            ended = self.process.poll() is not None
            self.look()
            if ended and self.done < update:
                self.log.seek(0)
                raise SystemExit(f"{self.process.args} ended:\n{self.log.read().decode(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Let it stand still, and note how far it came."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        self.look()

    def look(self) -> None:
        """Read what the journal tells since the last look."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        told = [line["update"] for line in map(json.loads, whole.splitlines()) if "images_per_second" in line]
        self.done = told[-1] if told else self.done
