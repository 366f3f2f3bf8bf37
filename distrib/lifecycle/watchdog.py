"""The watchdog: a run that hangs, or has lost a process, says which and where, and ends."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from distrib.lifecycle import launch
from distrib.lifecycle.ending import FAILED, Ending, say
from distrib.lifecycle.heartbeat import Beat, Heartbeats, Pulse
from distrib.lifecycle.processes import Processes

START = 3600.0  # seconds that a phase may take the first time: data is decoded, networks are compiled
PATIENT = ("starting", "saving", "ending")  # phases that may always take so long: a disk or a server may be slow
LEAVING = 20.0  # seconds that a process may take to leave after an error, when collectives may hang
PATIENCE = 4.0  # seconds within which it is known that a process has ended
SHOWN = 8  # stacks printed; the others are in their files


class Watchdog(threading.Thread):
    """A thread in each process. It writes the process's heartbeat and watches the others of its machine.

    It ends the process (exit code 1) if :attr:`pulse` has stood still for ``timeout`` seconds, or if another process is
    gone: the main thread is then waiting in a collective for what never comes, and can do nothing itself. One rank
    speaks: rank 0, or the lowest that still can.
    """

    def __init__(self, heartbeats: Heartbeats, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.pulse = Pulse(since=time.monotonic())
        self._heartbeats, self._timeout = heartbeats, timeout
        self._interval = min(max(timeout / 20, 0.5), 5.0)
        self._closing, self._speaking = threading.Event(), threading.Lock()
        self._awake, self._cut, self._silent = time.monotonic(), False, False

    def close(self, ending: Ending) -> None:
        """Stop watching, and leave word with which exit code this process ends."""
        self._closing.set()
        if self.is_alive():
            self.join(PATIENCE)  # a daemon thread that runs while the interpreter ends may crash it
        self._write(left=ending.code)
        if not ending.together:  # what is left of collectives may keep the interpreter from ending
            faulthandler.dump_traceback_later(LEAVING, exit=True)

    def blame(self) -> str | None:
        """Say which other process ended first, if one did; an empty text if another rank says it.

        The main thread asks this of an error that may be but a consequence. It takes some seconds to be sure.
        """
        self._closing.set()
        with self._speaking:
            # The first rank gives up first: of an error that all ranks met, it alone then speaks.
            for _ in range(int((PATIENCE + (2 if self._heartbeats.rank else 0)) / 0.2)):
                if ended := self._ended():
                    text = self._obituary(ended)
                    self._silent = not text
                    return text
                threading.Event().wait(0.2)
        return None

    def run(self) -> None:
        """Watch until closed."""
        self._write()
        last = time.monotonic()
        while not self._closing.wait(self._interval):
            now = time.monotonic()
            if now - last > 3 * self._interval + 1:
                self._awake = now  # this process was stopped (Ctrl-Z), and nobody is to blame
            last = now
            self._write()
            if gone := self._gone():
                self._closing.wait(PATIENCE)  # a collective may fail and tell the main thread, which can say more
                self._leave(lambda gone=gone: self._obituary(gone))  # type: ignore[misc]
            elif now - max(self.pulse.since, self._awake) > self._allowed():
                self._leave(self._explain)

    def _allowed(self) -> float:
        hasty = self.pulse.phase in self.pulse.passed and self.pulse.phase not in PATIENT
        return self._timeout if hasty else max(START, self._timeout)

    def _write(self, *, left: int | None = None) -> None:
        with contextlib.suppress(OSError):  # a folder that cannot be written now is no reason to end a run
            self._heartbeats.write(self.pulse, left=left, cut=self._cut, silent=self._silent)

    def _leave(self, explain: Callable[[], str]) -> None:
        """Say why, and end the process, whatever its main thread is waiting for."""
        with self._speaking:
            if self._closing.is_set():
                return  # the main thread has found out by itself
            try:
                if text := explain():
                    say(text, sys.stderr)
                self._silent = not text
            finally:  # whatever goes wrong in explaining
                self._write(left=FAILED)
                os._exit(FAILED)

    def _gone(self) -> list[int]:
        """Ranks of this machine whose processes are no more."""
        mine = self._heartbeats.me
        return [peer.rank for peer in self._heartbeats.peers if peer.rank != mine.rank and peer.is_gone(mine)]

    def _ended(self) -> list[int]:
        """Ranks that are gone, or have left word that they end."""
        left = [rank for rank, beat in self._heartbeats.read().items() if beat.left is not None]
        return sorted({*left, *self._gone()} - {self._heartbeats.rank})

    def _obituary(self, ended: list[int]) -> str:
        """What to say of ranks that are gone: nothing, if they said it themselves or another rank says it."""
        beats = self._heartbeats.read()
        # One that ended for another's sake and said nothing of it has not told, and is not who is to be named.
        ended = [rank for rank in ended if rank not in beats or not beats[rank].silent]
        told = [rank for rank in ended if rank in beats and beats[rank].left is not None]
        if told or not ended or self._heartbeats.rank != min(set(range(self._heartbeats.size)) - set(ended)):
            return ""
        peers = [self._heartbeats.peers[rank] for rank in ended]
        places = " and ".join(f"rank {peer.rank} (process {peer.pid} on {peer.host})" for peer in peers)
        return (
            f"error: {places} ended without a word, when this rank was in {_where(self.pulse)}: killed, out of memory "
            "or crashed (the launcher's and the system's log know more). The other processes end, too. The same "
            "command goes on from the newest checkpoint."
        )

    def _explain(self) -> str:
        """Look where everybody is; the report, if it is this rank's to give."""
        self._dump()
        self._cut = not launch.reaches_main(os.environ)
        before = self._heartbeats.read()
        self._live_on()  # meanwhile every living process writes again
        beats = self._heartbeats.read()
        silent = {r for r in range(self._heartbeats.size) if beats.get(r) == before.get(r)}
        silent.discard(self._heartbeats.rank)
        if self._heartbeats.rank != min(set(range(self._heartbeats.size)) - silent):
            self._live_on()  # the launcher ends all when the first one ends: let that one speak
            return ""
        for rank in silent:  # a stopped process heeds no launcher that asks it to end
            if self._heartbeats.peers[rank].is_here(self._heartbeats.me):
                with contextlib.suppress(OSError):
                    os.kill(self._heartbeats.peers[rank].pid, signal.SIGKILL)
        return "\n".join([explanation(beats, silent, self._heartbeats.size), *self._stacks(silent)])

    def _live_on(self) -> None:
        """Let some time go by, in which the others see that this process lives."""
        for _ in range(4):
            self._write()
            self._closing.wait(self._interval)

    def _dump(self) -> None:
        """Write the stacks of this process's threads, and what NCCL recorded of its collectives, beside its heartbeat.

        The recorder is torch's own, https://docs.pytorch.org/tutorials/unstable/flight_recorder_tutorial.html.
        """
        with contextlib.suppress(OSError), self._heartbeats.path(self._heartbeats.rank, "stack").open("w") as file:
            faulthandler.dump_traceback(file)
        if torch.cuda.is_available() and (record := getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)):  # noqa: SLF001
            with contextlib.suppress(OSError, RuntimeError):
                self._heartbeats.path(self._heartbeats.rank, "nccl").write_bytes(record())

    def _stacks(self, silent: set[int]) -> list[str]:
        """What every rank was doing, line by line."""
        lines = []
        for rank in [r for r in range(self._heartbeats.size) if r not in silent][:SHOWN]:
            with contextlib.suppress(OSError):
                stack = self._heartbeats.path(rank, "stack").read_text(encoding="utf-8", errors="replace")
                lines += [f"--- rank {rank} ---", stack.rstrip()]
        return [*lines, f"(stacks of all ranks: {self._heartbeats.folder})"]


def watch(folder: Path, processes: Processes, timeout: float, ending: Ending) -> Pulse:
    """Begin to watch, until the ending; what comes back is to be told where this process is. All must call it."""
    faulthandler.enable()
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
    watchdog = Watchdog(Heartbeats(folder, processes), timeout)
    ending.blame = watchdog.blame
    ending.then(watchdog.close)
    watchdog.start()
    return watchdog.pulse


def explanation(beats: dict[int, Beat], silent: set[int], size: int) -> str:
    """Which ranks the others wait for, and where those are."""
    seen = {rank: beat for rank, beat in beats.items() if rank not in silent}
    furthest = max((beat.position for beat in seen.values()), default=(0, 0))
    cut = [rank for rank, beat in seen.items() if beat.cut]
    behind = sorted(silent) or cut or [rank for rank, beat in seen.items() if beat.position < furthest]
    told = [_silence(rank, beats.get(rank)) if rank in silent else _stay(rank, seen[rank]) for rank in behind]
    rest = [beat for rank, beat in seen.items() if rank not in behind]
    if rest:
        who = "the others wait" if told else "all ranks wait" if size > 1 else "it stands"
        told.append(f"{who} in {_where(rest[0])} for {rest[0].seconds:.0f} s")
    places = ", ".join(told) or "no heartbeat can be read"
    return f"error: the run hangs: {places}. It ends; the same command goes on from the newest checkpoint."


def _stay(rank: int, beat: Beat) -> str:
    cut = " does not reach rank 0, the network between their machines is down," if beat.cut else ""
    return f"rank {rank} on {beat.host}{cut} in {_where(beat)} for {beat.seconds:.0f} s"


def _silence(rank: int, beat: Beat | None) -> str:
    if beat is None:
        return f"rank {rank} gives no sign of life (stopped, or its machine is gone)"
    if beat.left is not None:
        return f"rank {rank} on {beat.host} has ended with exit code {beat.left}"
    since = f"for {time.time() - beat.time:.0f} s, last seen in {_where(beat)}"
    return f"rank {rank} on {beat.host} gives no sign of life {since} (stopped, or its machine is gone)"


def _where(beat: Beat | Pulse) -> str:
    return f"update {beat.update}" if beat.phase == "update" else f"{beat.phase} (update {beat.update})"
