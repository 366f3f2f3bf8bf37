"""How a process leaves: with its exit code, and not by way of an interpreter that is being taken apart."""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from distrib.lifecycle.stopping import INTERRUPTED


def leave(main: Callable[[], int]) -> NoReturn:
    """Call ``main`` and end this process with the exit code that it returns.

    A thread of gloo lets go of a collective's tensors a moment after the collective is done, and needs the interpreter
    for it. If that is being taken apart by then, CPython (before 3.14) ends the thread, C++ takes this for an uncaught
    exception, and a run that has finished is aborted (SIGABRT). So one process of several ends as soon as all that
    asked to be called at exit has been, which is before that.
    """
    known: list[int] = []
    atexit.register(_end_at_once, known)  # the first to be registered is the last to be called
    try:
        known.append(main())
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        known.append(1)
    except KeyboardInterrupt:  # before a run, which heeds it, or in another command
        print("\nInterrupted.", file=sys.stderr)
        known.append(INTERRUPTED)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # all is done, and the code is to tell so
    raise SystemExit(known[0])


def _end_at_once(known: list[int]) -> None:
    """End with the known exit code; not a process that is alone, so that debuggers and profilers see its end."""
    if not known or int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(known[0])
