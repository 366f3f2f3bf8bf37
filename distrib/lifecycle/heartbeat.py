"""Heartbeats: where each rank is, in a small file that the others and a person can read."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrib.lifecycle.processes import Processes, host

SIZE = 512  # bytes of a file: always the same, written in place, so that a full disk does not look like a dead rank
PHASES = (
    "starting",
    "data loading",
    "update",
    "sharing numbers",
    "evaluation",
    "saving",
    "ending",
)  # in the order of an update


@dataclass
class Pulse:
    """Where this rank is. The training loop says so in passing: it costs an assignment."""

    phase: str = "starting"
    update: int = 0
    since: float = 0.0
    """When it got there, by :func:`time.monotonic`."""
    passed: frozenset[str] = frozenset()
    """Phases that were left once: the next time they have no excuse, such as compiling, to take long."""

    def enter(self, phase: str, update: int) -> None:
        """Say that ``update`` has come to ``phase``."""
        left = self.phase
        self.phase, self.update, self.since = phase, update, time.monotonic()
        if phase != left and left not in self.passed:
            self.passed |= {left}


@dataclass(frozen=True)
class Beat:
    """What a rank's file says."""

    rank: int
    host: str
    pid: int
    beat: int
    """Counts up as long as the process lives and is not stopped."""
    phase: str
    update: int
    seconds: float
    """How long it had been there."""
    time: float
    """When this was written, in seconds since 1970."""
    left: int | None = None
    """Exit code, once it has ended."""
    cut: bool = False
    """Whether, when it last looked, it did not reach the machine of rank 0."""
    silent: bool = False
    """Whether it ended because another one had, and left it to a third to say so."""

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come."""
        return self.update, PHASES.index(self.phase)


@dataclass(frozen=True)
class Peer:
    """A process of the run, as the others know it."""

    rank: int
    host: str
    pid: int
    space: str
    """What this pid is a number in: a container has process ids of its own."""

    @classmethod
    def me(cls, rank: int) -> "Peer":
        """This process."""
        try:  # machines may have the same name, and the namespace of processes is the same on most
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            space = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        except OSError:
            space = ""
        return cls(rank, host(), os.getpid(), space)

    def is_here(self, me: "Peer") -> bool:
        """Whether its pid is one of this machine."""
        return (self.host, self.space) == (me.host, me.space)

    def is_gone(self, me: "Peer") -> bool:
        """Whether it has ended, as far as one can tell from here."""
        if not self.is_here(me):
            return False
        try:
            os.kill(self.pid, 0)
            status = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except ProcessLookupError:
            return True
        except OSError:  # another user's, or not Linux
            return Path("/proc/self/stat").exists() and not Path(f"/proc/{self.pid}").exists()
        return status.rpartition(")")[2].split()[0] in "ZX"  # ended, but its parent has not looked yet


class Heartbeats:
    """The files of all ranks, in a folder that all of them see."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.rank, self.size = folder, processes.rank, processes.size
        self.me = Peer.me(self.rank)
        self.peers: list[Peer] = processes.gather(self.me)
        self._count = 0

    def path(self, rank: int, suffix: str = "json") -> Path:
        """A rank's file."""
        return self.folder / f"rank-{rank}.{suffix}"

    def write(self, pulse: Pulse, *, left: int | None = None, cut: bool = False, silent: bool = False) -> None:
        """Write this rank's."""
        self._count += 1
        seconds = round(time.monotonic() - pulse.since, 1)
        where = (self._count, pulse.phase, pulse.update, seconds, time.time())
        beat = Beat(self.rank, self.me.host, self.me.pid, *where, left, cut, silent)
        content = json.dumps(asdict(beat)).encode().ljust(SIZE - 1) + b"\n"
        # Opened each time: on a network file system others see it once it is closed.
        descriptor = os.open(self.path(self.rank), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)

    def read(self) -> dict[int, Beat]:
        """The last of each rank, by rank; without those that cannot be read, or are of an earlier process."""
        beats = {}
        for peer in self.peers:
            beat = read_beat(self.path(peer.rank))
            if beat is not None and (beat.host, beat.pid) == (peer.host, peer.pid):
                beats[peer.rank] = beat
        return beats


def read_beat(path: Path) -> Beat | None:
    """What a rank's file says; None if it cannot be read."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        beat = Beat(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = (beat.rank, beat.pid, beat.beat, beat.update, beat.seconds, beat.time)
    sound = beat.phase in PHASES and all(isinstance(number, int | float) for number in numbers)
    flags = isinstance(beat.cut, bool) and isinstance(beat.silent, bool)
    return beat if sound and flags and isinstance(beat.left, int | None) else None
