"""What rank 0 shows while it trains: a bar on a terminal, plain lines in a log file."""

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from distrib.insight.summary import aligned, duration
from distrib.lifecycle.ending import say

QUIET_SECONDS = 30.0
"""A log file hears of a running epoch no more often than this."""

HEADS = ("kind", "event", "update", "epoch", "time")

TOLD = {
    "resume": "resumed",
    "stop": "stopped",
    "failed": "failed",
    "skip": "skipped",
    "rollback": "rolled back",
    "diverged": "diverged",
}
"""The events a person cares about; every other one is in the journal alone."""


class Screen(Protocol):
    """Where lines and the progress of the running epoch are shown."""

    def say(self, line: str) -> None:
        """Show a line for good."""

    def progress(self, title: str, done: int, total: int, status: str) -> None:
        """Show how far the running epoch is, in updates."""

    def close(self) -> None:
        """Leave the lines, and nothing else, behind."""


class Plain:
    """A file or a pipe: whole lines without control characters, and few of them."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._last = clock()

    def say(self, line: str) -> None:
        """Print a line."""
        self._last = self._clock()
        say(line, self._stream)

    def progress(self, title: str, done: int, total: int, status: str) -> None:
        """Print a line if it was quiet for long."""
        if done < total and self._clock() - self._last >= QUIET_SECONDS:
            self.say(f"{title}  update {done}/{total}  {status}")

    def close(self) -> None:
        """Nothing is left open."""


class Terminal:
    """A terminal: lines scroll above a bar."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console as RichConsole  # noqa: PLC0415 - only terminals need rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
        )
        screen = RichConsole(file=stream, force_terminal=True, highlight=False)
        # Drawing takes a core from training where there are few: twice a second is enough.
        self._bar = Progress(*columns, console=screen, refresh_per_second=2, transient=True)
        self._task = self._bar.add_task("", total=None, visible=False, status="")
        self._bar.start()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, title: str, done: int, total: int, status: str) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=title, completed=done, total=total, status=status, visible=True)

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        self._bar.stop()


class Console:
    """A sink of the journal that tells a person how the run goes."""

    def __init__(  # noqa: PLR0913 - all but the header are keywords
        self,
        header: list[tuple[str, str]],
        *,
        epochs: int,
        updates_per_epoch: int,
        first_update: int = 0,
        best: float = -math.inf,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show the header, pairs of a name and a text, one below the other.

        ``first_update`` counts the updates made by earlier processes of the run, and ``best`` is the best test accuracy
        they reached, of 1. ``stream`` is standard output unless given. ``clock`` returns seconds.
        """
        stream = stream or sys.stdout
        dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
        self._screen: Screen = Terminal(stream) if stream.isatty() and not dumb else Plain(stream, clock)
        self._epochs, self._updates = epochs, updates_per_epoch
        self._best, self._clock = best, clock
        self._began = (clock(), first_update)
        self._rates: list[float] = []
        self._seconds: list[float] = []
        for line in aligned(header):
            self._screen.say(line)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Show what a person wants to see of the records; kinds and events that are not known are passed over."""
        updates = [record for record in records if record["kind"] == "update"]
        self._rates += [record["images_per_second"] for record in updates]
        if updates:
            self._show_progress(updates[-1])
        for record in records:
            if record["kind"] == "epoch":
                self._show_epoch(record)
            elif record["kind"] == "event" and record.get("event") in TOLD:
                self._screen.say(told(record))

    def close(self) -> None:
        """End the bar. Nothing may be written afterwards."""
        self._screen.close()

    def _show_progress(self, record: dict[str, Any]) -> None:
        done = record["update"] - (record["epoch"] - 1) * self._updates
        began, first = self._began
        seconds_each = (self._clock() - began) / max(1, record["update"] - first)
        left = duration(seconds_each * (self._updates - done))
        status = f"loss {record['loss']:.4f}  {record['images_per_second']:,.0f} images/s  {left} left"
        self._screen.progress(self._title(record["epoch"]), done, self._updates, status)

    def _show_epoch(self, record: dict[str, Any]) -> None:
        self._seconds.append(record["seconds"])
        parts = [self._title(record["epoch"]), *scores(record), f"lr {record['lr']:.2g}"]
        if self._rates:
            # The mean of rates over equal numbers of images is the harmonic one.
            parts.append(f"{harmonic_mean(self._rates):,.0f} images/s")
        parts.append(duration(record["seconds"]))
        left = (self._epochs - record["epoch"]) * sum(self._seconds) / len(self._seconds)
        if left > 0:
            parts.append(f"{duration(left)} left")
        if record["test_top1"] > self._best:
            self._best = record["test_top1"]
            parts.append("best")
        self._screen.say("  ".join(parts))
        self._rates = []
        self._began = (self._clock(), record["update"])

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}"


def scores(record: dict[str, Any]) -> list[str]:
    """Return the losses and the accuracies, in per cent, of an epoch record."""
    parts = [f"{name} {record[f'{name}_loss']:.4f} {100 * record[f'{name}_top1']:6.2f} %" for name in ("train", "test")]
    if "ema_test_top1" in record:
        parts.append(f"ema {100 * record['ema_test_top1']:6.2f} %")
    return parts


def harmonic_mean(rates: list[float]) -> float:
    """Return the rate of equal amounts of work done at these rates, 0 if one of them never ended."""
    return len(rates) / sum(1 / rate for rate in rates) if all(rates) else 0.0


def told(record: dict[str, Any]) -> str:
    """Return the line for an event: what happened, where, and every other field of it by name."""
    place = f" at update {record['update']}" if "update" in record else ""
    place += f" (epoch {record['epoch']})" if "epoch" in record else ""
    more = [f"{key} {value}" for key, value in record.items() if key not in HEADS]
    return TOLD[record["event"]] + place + (f": {', '.join(more)}" if more else "")
