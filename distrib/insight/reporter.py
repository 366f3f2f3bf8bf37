"""The report of a run that trains, written by processes of their own: no trouble of theirs reaches the training."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrib.images.workers import cores
from distrib.lifecycle import launch
from distrib.lifecycle.ending import say
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.stopping import StopRequest

Record = dict[str, Any]

MAIN = Path(__file__).parents[1] / "__main__.py"
SHARE = 0.01
"""Of the processor time that a run has, what drawing its curves may take."""
GUESS = 2.0
"""Seconds of processor time that the first drawing is taken to cost."""
LOWEST = 19
"""Priority of a drawing: whatever else wants a processor comes first."""
GLANCE = 0.2
"""Seconds between two looks at whether a signal asked to stop."""


class Drawing:
    """A process that writes a run's report: all of it, or its curves alone with the lowest priority."""

    def __init__(self, folder: RunFolder, *, curves: bool) -> None:
        flags, changes = (["--curves"], {"OMP_NUM_THREADS": "1"}) if curves else ([], {})
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, str(MAIN), "report", str(folder.path), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=launch.apart(os.environ) | changes,
            process_group=0,  # Ctrl-C asks the run to stop, which then ends this
        )
        if curves:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, LOWEST)
        self.seconds = 0.0
        """Processor time that it took, once it has ended."""

    def ended(self) -> bool:
        """Whether it has."""
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.seconds = round(usage.ru_utime + usage.ru_stime, 2)
        return self._process.returncode is not None

    def fault(self) -> str | None:
        """Why there is no report, if it has ended without writing one: the last line it said."""
        if self._process.returncode == 0:
            return None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with exit code {self._process.returncode}"

    def close(self) -> None:
        """End it if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._said.close()


class Reporter:
    """A sink of the journal that has the curves drawn anew after an epoch, while training goes on.

    So that nobody waits for it, a drawing has the lowest priority, and the next one comes once all of them together
    took less than 1 % of the processor time: not after every epoch, if epochs are short. What each took is noted in the
    journal.
    """

    def __init__(
        self, folder: RunFolder, note: Callable[..., None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``note`` takes an event and its facts, as the journal's ``event``; ``clock`` gives seconds."""
        self._folder, self._note, self._clock = folder, note, clock
        self._began, self._spent, self._dearest = clock(), 0.0, GUESS
        self._drawing: Drawing | None = None
        self._drawn: Record = {}
        self._given_up = False

    def write(self, records: list[Record]) -> None:
        """Note what has been drawn; begin to draw after an epoch, but for a run that has ended."""
        if any(record.get("event") == "end" for record in records):
            self.close()
            self._drawing, self._given_up = None, True
        if self._drawing is not None and self._drawing.ended():
            self._noted(self._drawing)
        epochs = [record for record in records if record["kind"] == "epoch"]
        if epochs and self._drawing is None and not self._given_up and self._affordable():
            self._drawn = {name: epochs[-1][name] for name in ("update", "epoch")}
            try:
                self._drawing = Drawing(self._folder, curves=True)
            except OSError as error:
                self._give_up(str(error))

    def close(self) -> None:
        """Give up what is being drawn."""
        if self._drawing is not None:
            self._drawing.close()

    def _affordable(self) -> bool:
        had = (self._clock() - self._began) * cores()
        return self._spent + self._dearest <= SHARE * had

    def _noted(self, drawing: Drawing) -> None:
        self._drawing = None
        self._spent += drawing.seconds
        self._dearest = max(self._dearest, drawing.seconds)
        fault = drawing.fault()
        drawing.close()
        if fault:
            self._give_up(fault)
        else:
            self._note("report", **self._drawn, cpu_seconds=drawing.seconds)

    def _give_up(self, fault: str) -> None:
        self._given_up = True
        say(f"WARNING: the report cannot be drawn ({fault}); the run goes on without it", sys.stderr)


def write_report(folder: RunFolder, stop: StopRequest) -> float | None:
    """Write the whole report of a finished run, and say so; give up if asked to stop.

    Returns the seconds of processor time that it took, or None if there is no report.
    """
    say("\nWriting the report (Ctrl-C leaves without it) ...", sys.stdout)
    try:
        drawing = Drawing(folder, curves=False)
    except OSError as error:
        say(f"WARNING: there is no report: {error}", sys.stderr)
        return None
    asked = stop.signal
    while not drawing.ended() and stop.signal == asked:
        time.sleep(GLANCE)
    fault = drawing.fault() if drawing.ended() else f"{stop.signal} came while it was written"
    drawing.close()
    if fault:
        say(f"WARNING: there is no report: {fault}", sys.stderr)
        return None
    say(f"report  {folder.report}", sys.stdout)
    return drawing.seconds
