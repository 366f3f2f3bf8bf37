"""Commands that are started to be watched and killed, with every process that comes of them."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.processes import host

LAUNCHERS = re.compile(r"[WE]\d{4} |Traceback|srun: ")  # how a line begins with which they tell of a failed process
GLANCE = 0.01  # seconds between two looks at a run
PATIENCE = 60.0  # seconds for a launcher to end after the loss of a rank, and for killed processes to be gone


class Unproven(Exception):
    """A run that was to be compared did not come to its end; the message says why."""


class Launch:
    """A command, and every process that comes of it on this host.

    A mark in their environment tells them from others: torchrun gives each rank a session of its own, so that a process
    group would not do, and a rank whose launcher was killed has no parent that could be asked.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        self._seen, self._mark = set[int](), f"DISTRIB_VERIFY={uuid.uuid4().hex}"
        marked = os.environ | dict([self._mark.split("=")])
        with log.open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603 - the launcher that the user names
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=marked, start_new_session=True
            )

    def lasts(self, seconds: float) -> bool:
        """Whether the command has not ended after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def processes(self) -> set[int]:
        """The pids of those that run; one that is dying has lost its environment."""
        if not Path("/proc/self/environ").exists():  # macOS
            words = ["ps", "-A", "-E", "-ww", "-o", "pid=,command="]
            listing = subprocess.run(words, capture_output=True, text=True, errors="replace", check=True)  # noqa: S603
            return {int(line.split()[0]) for line in listing.stdout.splitlines() if self._mark in line}
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if self._mark.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
        self._seen |= found
        return found

    def kill(self, rank: int | None, folder: RunFolder) -> str:
        """Kill a rank, if it tells its pid and lives here, and let its launcher end the others; or kill all at once."""
        pid = pid_of(rank, folder)
        if pid is None or pid not in self.processes():
            self.close()
            return "group"
        os.kill(pid, signal.SIGKILL)
        return f"rank {rank}{', then all' if self.lasts(PATIENCE) else ''}"

    def close(self) -> None:
        """Kill all and wait until they are gone. Raises Unproven if they do not go."""
        deadline = time.monotonic() + PATIENCE
        while (left := self.processes()) or any(map(remains, self._seen)) or self.process.poll() is None:
            if time.monotonic() > deadline:
                raise Unproven(f"processes {sorted(filter(remains, self._seen))} outlived SIGKILL by {PATIENCE:.0f} s")
            self.process.kill()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.lasts(GLANCE)


def remains(pid: int) -> bool:
    """Whether a thread of a killed process is still there, perhaps holding a file or a GPU (Linux; False elsewhere)."""
    try:
        stats = [stat.read_text(errors="replace") for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return True  # one has just gone: look again
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in stats)


def pid_of(rank: int | None, folder: RunFolder) -> int | None:
    """The pid that a rank on this host tells in its heartbeat."""
    try:
        beat = json.loads((folder.path / "heartbeats" / f"rank-{rank}.json").read_text(encoding="utf-8"))
        return int(beat["pid"]) if beat["host"] == host() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def excerpt(log: Path) -> str:
    """Of an output, the first error and what follows, or else the end: launchers add their own at length."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(("error", "╭"))), -20)
    told = itertools.takewhile(lambda line: not LAUNCHERS.match(line), lines[first:][:20])
    return "\n".join([*told, f"(all of it: {log})"])
