"""The journal ``metrics.jsonl``: one JSON object a line, the source of truth of what happened in a run."""

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
        if self._file is None or not records:
            return
        lines = b"".join(_line(record) for record in records)
        try:
            with self._lock:
                self._kept += lines
                self._append(self._file)
        except OSError as error:
            print(f"WARNING: {self._file.name} cannot be written ({error}); will be tried again", file=sys.stderr)
        for sink in self._sinks:
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
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _line(record: Record) -> bytes:
    # JSON knows no NaN: a number that is none is written as null.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def read(path: Path) -> Iterator[Record]:
    """The records of the journal at ``path``. A last line cut short by a crash is left out.

    Raises:
        SettingsError: a line is no record; says which.
    """
    for number, record in _records(path):
        if record is None:
            raise SettingsError(
                f"{path}, line {number}, is no record of a journal: the file was damaged. Remove that line, or train "
                "under another --name"
            )
        yield record


def cut_back(path: Path, update: int) -> None:
    """Drop what happened after ``update``, so that no update appears twice when they are computed again.

    That it was started, stopped and resumed stays: it is the run's history. So that damage cannot keep a run from going
    on, a line that is no record is dropped, and told. The file is replaced whole or not at all.
    """
    kept, damaged = [], []
    for number, record in _records(path):
        if record is None:
            damaged.append(number)
        elif record.get("event") in HISTORY or record.get("update", 0) <= update:
            kept.append(record)
    if damaged:
        print(f"WARNING: {path} was damaged; dropped its lines {damaged[:10]}", file=sys.stderr)
    write_whole(path, b"".join(_line(record) for record in kept).decode())


def _records(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Numbers of the lines, from 1, and the record of each, None where it is none. Without a last unfinished line."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.endswith("\n"):
                yield number, _record(line)


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
        whole = isinstance(record["kind"], str) and (record["kind"] != "event" or isinstance(record["event"], str))
        return record if whole and isinstance(record.get("update", 0), int) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
