"""The tests' own way to start a command."""

import sys

import pytest

from tests.launching import run

STARTS_ONE_THAT_HANGS = """
import subprocess, sys
print("started", flush=True)
subprocess.run([sys.executable, "-c", "import threading\\ndef hangs(): threading.Event().wait()\\nhangs()"])
"""


def test_a_command_that_hangs_shows_where_and_leaves_nothing_behind():
    with pytest.raises(AssertionError, match=r"not ended after 3 s(?s:.*)started(?s:.*)in hangs"):
        run([sys.executable, "-c", STARTS_ONE_THAT_HANGS], timeout=3)
