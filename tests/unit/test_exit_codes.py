"""How a process leaves."""

import subprocess
import sys

from tests.launching import ROOT

CODE = """
import atexit, os, signal
from distrib.lifecycle.leaving import leave

def main():
    {body}
    return 3

leave(main)
"""


def left(body: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CODE.format(body=body)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_signal_after_the_end_does_not_change_the_code() -> None:
    for name in ("SIGTERM", "SIGUSR2", "SIGHUP"):
        done = left(f"atexit.register(lambda: os.kill(os.getpid(), signal.{name}))")
        assert (done.returncode, done.stderr) == (3, "")


def test_an_interrupt_that_nobody_heeds_is_no_traceback() -> None:
    done = left("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "\nInterrupted.\n")
