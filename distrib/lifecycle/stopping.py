"""Stopping on request: a signal sets a flag, and the run ends where everything is saved."""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from distrib.settings import SettingsError

# Not SIGUSR1: NCCL may catch it, and torchrun's agent dies of it and leaves its workers behind.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
IMPATIENCE = 3.0  # seconds within which a second Ctrl-C means: now
HEED = 5.0  # seconds after which a request to stop at once has not been heeded
STOPPED = 75  # exit code of a run that was asked to stop
INTERRUPTED = 128 + signal.SIGINT  # exit code of one who left at once, as a shell gives it
PR_SET_PDEATHSIG = 1
LEAD = "DISTRIB_STOP_LEAD"
"""Variable in which the jobs in slurm/ say how many seconds lie between the signal and the end of their time."""


class Stopped(BaseException):
    """The run was asked to stop, and the same command goes on with it.

    Not an Exception: it may be raised by a signal's handler, between any two lines of a library that catches those.
    """

    at_once = False
    """Whether this process leaves by itself, before all have agreed."""


class StopRequest:
    """While entered, remembers whether a signal asked this process to stop. The old handlers come back on leaving."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the signal that asked, if one did."""
        self.at_once = True
        """Whether a signal ends the run where it is: while data is prepared, or the first update compiled, there is
        nothing to save. From then on it only sets :attr:`signal`."""

    def __enter__(self) -> Self:
        """Install the handlers."""
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, end == self._ends[0])
        self._old_fd = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        # A terminal that is closed asks, too; not if the run was told to outlive it (nohup).
        asked = SIGNALS if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*SIGNALS, signal.SIGHUP)
        threading.Thread(target=self._listen, args=(self._ends[0], asked), daemon=True).start()
        self._old = {number: signal.signal(number, self._note) for number in asked}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._ends[1])  # ends the thread, which closes the other

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # Once there is something to save, nothing but a flag: this runs between any two instructions, also of a save.
        first, self.signal = self.signal is None, signal.Signals(number).name
        if self.at_once and first:
            stopped = Stopped(f"Stopped by {self.signal} before the first update: nothing is lost.")
            stopped.at_once = True
            raise stopped

    def _listen(self, signals: int, asked: Sequence[int]) -> None:
        """Read the numbers of arriving signals; leave the process if two Ctrl-C come within three seconds.

        And if one that asked to stop at once is not heeded. A thread does this because Python's own handlers wait while
        the main thread is in a collective that may never end, or for processes that never come. A checkpoint being
        written is lost; those that stand are whole whenever their writer leaves.
        """
        interrupted, waiting = -IMPATIENCE, None
        while True:
            if not select.select([signals], [], [], waiting)[0]:
                if self.at_once and self.signal is None:
                    quit_now("Stopped before the first update: nothing is lost.", STOPPED)
                waiting = None
            elif not (number := os.read(signals, 1)):
                break
            elif number[0] in asked:
                waiting, now = HEED, time.monotonic()
                if number[0] == signal.SIGINT:
                    if now - interrupted < IMPATIENCE:
                        quit_now("\nLeft at once, without saving.", INTERRUPTED)
                    interrupted = now
        os.close(signals)


def quit_now(told: str, code: int) -> NoReturn:
    """End this process where it is."""
    print(told, file=sys.stderr, flush=True)
    os._exit(code)


def lead(environment: Mapping[str, str]) -> float | None:
    """Seconds that the run is given to save once a signal has said that its time is nearly up; None if nobody says.

    Raises:
        SettingsError: it is no number.
    """
    text = environment.get(LEAD)
    try:
        return float(text) if text else None
    except ValueError:
        raise SettingsError(f"{LEAD}={text}: give the seconds between the signal and the end of the job") from None


def end_with_launcher() -> None:
    """Have Linux send SIGTERM to this process when the launcher that started it dies.

    `accelerate launch` of one process dies of a SIGTERM without passing it on, and torchrun of a SIGUSR2: the training
    would go on unseen. Only for these two: a shell may well leave before what it started.
    """
    try:
        parent = os.getppid()
        command = Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8", errors="replace")
        names = {word.rpartition("/")[2].removesuffix(".py") for word in command.split("\0")}
        if names & {"accelerate", "torchrun", "torch.distributed.run", "accelerate.commands.launch"}:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died meanwhile
                signal.raise_signal(signal.SIGTERM)
    except (OSError, AttributeError):
        return  # not Linux
