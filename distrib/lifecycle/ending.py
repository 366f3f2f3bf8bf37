"""How a run ends: every way out has an exit code, and an error is one message for a person."""

import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

from distrib.command import first_rank
from distrib.images.decoding import ImageError
from distrib.settings import SettingsError

FINISHED, FAILED, BAD_SETTINGS, STOPPED = 0, 1, 2, 75


class Stopped(Exception):
    """The run was asked to stop, and everything is saved: the same command goes on with it."""


class Finished(Exception):
    """There is nothing to do; the message says why."""


class Ending:
    """While entered, turns whatever ends the run into ``code``, says what happened, and calls what was asked for.

    All ranks refuse settings together, so the first alone says why. A bug, or an image met in training, may concern one
    rank only: that rank speaks, and its launcher ends the others.
    """

    def __init__(self) -> None:
        self.code = FINISHED
        self._calls: list[Callable[[int], None]] = []

    def then(self, call: Callable[[int], None]) -> None:
        """Call ``call`` with the exit code once it is known; the last one asked for comes first."""
        self._calls.insert(0, call)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Set the code and call. Takes every error but those that end the interpreter itself."""
        if error is not None and not isinstance(error, Exception):
            return False
        if isinstance(error, Finished) and first_rank():
            print(error, flush=True)
        elif isinstance(error, SettingsError):
            self.code = BAD_SETTINGS
            if first_rank():
                print(f"error: {error}", file=sys.stderr, flush=True)
        elif isinstance(error, Stopped):
            self.code = STOPPED
        elif error is not None and not isinstance(error, Finished):
            self.code = FAILED
            told = str(error) if isinstance(error, ImageError) else "".join(traceback.format_exception(error))
            if first_rank() or not getattr(error, "everywhere", False):
                print(f"error on rank {os.environ.get('RANK', '0')}: {told}", file=sys.stderr, flush=True)
        for call in self._calls:
            call(self.code)
        self._calls.clear()
        return True
