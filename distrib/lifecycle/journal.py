"""The journal ``metrics.jsonl``: one JSON object a line, the source of truth of what happened in a run."""

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from distrib.lifecycle.ending import say
from distrib.lifecycle.files import write_whole
from distrib.settings import SettingsError

Record = dict[str, Any]

# Events of processes, which stay whatever is computed again.
HISTORY = ("start", "resume", "stop", "failed", "diverged", "end")


class Sink(Protocol):
    """Something that is shown the journal while it is written."""

    def write(self, records: list[Record]) -> None:
        """Take records, in the journal's order."""

    def close(self) -> None:
        """Finish."""


class Journal:
    """Appends records to the journal and hands them to the sinks. Without a ``path`` (ranks but 0) it does nothing.

    What a full disk does not take is kept, and tried again with the next records: training goes on.
    """

    def __init__(self, path: Path | None, sinks: Sequence[Sink] = ()) -> None:
        self._file = path.open("ab", buffering=0) if path else None
        self._sinks = list(sinks)
        self._kept, self._lock = b"", threading.Lock()

    def add(self, *sinks: Sink) -> None:
        """Show the sinks all that follows."""
        self._sinks += sinks

    def write(self, records: list[Record]) -> None:
        """Append records."""
        if self._file is None or not (records or self._kept):
            return
        lines = b"".join(_line(record) for record in records)
        try:
            with self._lock:
                self._kept += lines
                self._append(self._file)
        except OSError as error:
            say(f"WARNING: {self._file.name} cannot be written ({error}); will be tried again", sys.stderr)
        for sink in self._sinks:
            with contextlib.suppress(OSError):  # a terminal that is gone is no reason to stop
                sink.write(records)

    def _append(self, file: FileIO) -> None:
        """Write what is kept: all of it, or nothing."""
        size = os.fstat(file.fileno()).st_size
        try:
            rest = self._kept
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
        self._kept = b""

    def event(self, event: str, **facts: Any) -> None:
        """Append an event, with the time of the day in seconds since 1970."""
        self.write([{"kind": "event", "event": event, "time": round(time.time(), 3), **facts}])

    def sync(self) -> None:
        """Wait until what was written is on the disk. May be called from another thread.

        Raises:
            OSError: it is not all written.
        """
        if self._file is None:
            return
        with self._lock:
            if self._kept:
                raise OSError(f"{self._file.name} cannot be written")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the sinks."""
        if self._file is None:
            return
        if self._kept:
            self.write([])
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _line(record: Record) -> bytes:
    return json.dumps(_plain(record), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """JSON knows no NaN: a number that is none is written as null, wherever it stands."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> Iterator[Record]:
    """The records of the journal at ``path``. A last line cut short by a crash is left out.

    Raises:
        SettingsError: a line is no record; says which.
    """
    for number, _, record in _records(path):
        if record is None:
            raise SettingsError(
                f"{path}, line {number}, is no record of a journal: the file was damaged. Remove that line, or train "
                "under another --name"
            )
        yield record


def cut_back(path: Path, update: int, epoch: int) -> None:
    """Drop what happened after ``update`` and ``epoch``, so that nothing appears twice when it is computed again.

    An epoch is evaluated after its last update: of a checkpoint made in between, the evaluation is still to come.

    That it was started, stopped and resumed stays: it is the run's history. So that damage cannot keep a run from going
    on, a line that is no record is dropped, and told. The file is replaced whole or not at all.
    """
    damaged = []

    def kept() -> Iterator[str]:
        for number, line, record in _records(path):
            if record is None:
                damaged.append(number)
            elif record.get("event") in HISTORY or _is_done(record, update, epoch):
                yield line

    write_whole(path, kept())
    if damaged:
        print(f"WARNING: {path} was damaged; dropped its lines {damaged[:10]}", file=sys.stderr)


def _is_done(record: Record, update: int, epoch: int) -> bool:
    """Whether a record tells of something up to an update and an epoch."""
    scored = record["kind"] == "epoch" or record.get("event") == "best"
    return record.get("update", 0) <= update and not (scored and record.get("epoch", 0) > epoch)


def _records(path: Path) -> Iterator[tuple[int, str, Record | None]]:
    """The lines, with their numbers from 1 and their records, None where it is none. Without a last unfinished one."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.endswith("\n"):
                yield number, line, parse(line)


def parse(line: str) -> Record | None:
    """The record that a line is, or None if it is none."""
    if not line.isascii():
        return None  # nothing of ours: _line escapes all that is not
    try:
        record = _JSON.decode(line)
        event = record["kind"] == "event"
        named = isinstance(record["event"] if event else record["kind"], str)
        counts = (record.get("update", 0) if event else record["update"], record.get("epoch", 0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if named and all(type(count) is int for count in counts) else None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)
