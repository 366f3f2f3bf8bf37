"""How a run ends: every way out has an exit code, and an error is one message for a person."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from distrib.command import first_rank
from distrib.images.decoding import ImageError
from distrib.lifecycle.stopping import STOPPED, Stopped, StopRequest
from distrib.settings import SettingsError

FINISHED, FAILED, BAD_SETTINGS, DIVERGED = 0, 1, 2, 3


class Finished(Exception):
    """There is nothing to do; the message says why."""


class Failed(Exception):
    """The run cannot go on, for a reason that a person can mend; the message says which. No bug: no traceback."""


class Diverged(Exception):
    """Losses or gradients are not finite. All ranks raise it together."""


class Ending:
    """While entered, turns whatever ends the run into ``code``, says what happened, and calls what was asked for.

    All ranks refuse settings together, so the first alone says why. A bug, or an image met in training, may concern one
    rank only: that rank speaks, and its launcher ends the others.
    """

    def __init__(self, stop: StopRequest | None = None) -> None:
        self._stop = stop
        self.code = FINISHED
        self.together = True
        """Whether all ranks end here, so that one may wait for another."""
        self.blame: Callable[[], str | None] = lambda: None
        """Says who else ended first, so that an error here is but a consequence: an empty text if that one has told it
        or another tells it, None if nobody did."""
        self._calls: list[Callable[[Ending], None]] = []

    def then(self, call: Callable[["Ending"], None]) -> None:
        """Call ``call`` with this once the exit code is known; the last one asked for comes first."""
        self._calls.insert(0, call)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Set the code and call. Takes every error but those that end the interpreter itself."""
        if error is not None and not isinstance(error, Exception | Stopped):
            return False
        if self._stop is not None:
            self._stop.at_once = False  # it is ending already
        self.code, told = self._judge(error)
        self.together = self.code != FAILED and not (isinstance(error, Stopped) and error.at_once)
        if told:
            say(told, sys.stdout if self.code in (FINISHED, STOPPED) else sys.stderr)
        for call in self._calls:
            self._close(call)
        self._calls.clear()
        _let_go()
        return True

    def _close(self, call: Callable[["Ending"], None]) -> None:
        """Call it; what goes wrong then must not keep the others from being called."""
        try:
            call(self)
        except Exception as error:  # noqa: BLE001
            if self.code in (FINISHED, STOPPED):
                self.code, self.together = FAILED, False
                say(self._failure(error), sys.stderr)

    def _judge(self, error: BaseException | None) -> tuple[int, str]:
        """The exit code, and what this rank says."""
        if error is None:
            return FINISHED, ""
        together: dict[type[BaseException], tuple[int, str]] = {
            Finished: (FINISHED, f"{error}"),
            Stopped: (STOPPED, f"{error}"),
            SettingsError: (BAD_SETTINGS, f"error: {error}"),
            Diverged: (DIVERGED, f"error: {error}"),
        }
        for kind, (code, text) in together.items():
            if isinstance(error, kind):
                return code, text if first_rank() else ""
        return FAILED, self._failure(error)

    def _failure(self, error: BaseException) -> str:
        """What this rank says of an error that others may not have met."""
        if getattr(error, "everywhere", False):
            return f"error: {error}" if first_rank() else ""
        plain = isinstance(error, ImageError | Failed | SettingsError)
        # A collective fails with a RuntimeError or one of the system's when a process at its other end is gone.
        blamed = self.blame() if isinstance(error, RuntimeError | OSError) and not plain else None
        if blamed is not None:
            return blamed
        told = str(error) if plain else "".join(traceback.format_exception(error))
        return f"error on rank {os.environ.get('RANK', '0')}: {told}"


def say(text: str, stream: TextIO) -> None:
    """Print, if anybody can still read it: a run does not fail for a terminal that is gone or a log on a full disk."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=stream, flush=True)


def _let_go() -> None:
    """Give up on output that cannot be written: Python would try again as it ends, and end with its own code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
