"""The journal ``metrics.jsonl``: one JSON object a line, the source of truth of what happened in a run."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from distrib.lifecycle.files import write_whole

Record = dict[str, Any]

HISTORY = ("start", "resume", "stop", "failed", "end")  # events of processes, which stay whatever is computed again


class Sink(Protocol):
    """Something that is shown the journal while it is written."""

    def write(self, records: list[Record]) -> None:
        """Take records, in the journal's order."""

    def close(self) -> None:
        """Finish."""


class Journal:
    """Appends records to the journal and hands them to the sinks. Without a ``path`` (ranks but 0) it does nothing."""

    def __init__(self, path: Path | None, sinks: Sequence[Sink] = ()) -> None:
        self._file = path.open("a", encoding="utf-8") if path else None
        self._sinks = list(sinks)

    def add(self, *sinks: Sink) -> None:
        """Show the sinks all that follows."""
        self._sinks += sinks

    def write(self, records: list[Record]) -> None:
        """Append records."""
        if self._file is None or not records:
            return
        self._file.write("".join(_line(record) for record in records))
        self._file.flush()
        for sink in self._sinks:
            sink.write(records)

    def event(self, event: str, **facts: Any) -> None:
        """Append an event, with the time of the day in seconds since 1970."""
        self.write([{"kind": "event", "event": event, "time": round(time.time(), 3), **facts}])

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the sinks."""
        if self._file is None:
            return
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _line(record: Record) -> str:
    # JSON knows no NaN: a number that is none is written as null.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def read(path: Path) -> Iterator[Record]:
    """The records of the journal at ``path``. A last line cut short by a crash is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def cut_back(path: Path, update: int) -> None:
    """Drop what happened after ``update``, so that no update appears twice when they are computed again.

    That it was started, stopped and resumed stays: it is the run's history. The file is replaced whole or not at all.
    """
    kept = [r for r in read(path) if r.get("event") in HISTORY or r["update"] <= update]
    write_whole(path, "".join(_line(record) for record in kept))
