import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrib.lifecycle.lock import Lock
from distrib.lifecycle.processes import host
from distrib.settings import SettingsError
from tests.launching import ROOT

HOLDER = """
import sys, pathlib
from distrib.lifecycle.lock import Lock
lock = Lock()
lock.take(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(SettingsError, match=f"in use by process {process.pid} on {host()}, since 20"):
            Lock().take(tmp_path)
        process.kill()
        process.wait()
        lock = Lock()
        lock.take(tmp_path)  # however it ended
        lock.release()


def test_it_can_be_taken_again_after_release(tmp_path: Path) -> None:
    lock = Lock()
    lock.take(tmp_path)
    lock.release()
    with holder(tmp_path) as process:
        process.communicate("")
    assert process.returncode == 0


def test_one_that_was_never_taken_can_be_released() -> None:
    Lock().release()


@pytest.mark.parametrize("content", ["", "rubbish", "[]", "{}", "\0" * 40])
def test_a_holder_that_says_nothing_is_another_process(tmp_path: Path, content: str) -> None:
    with holder(tmp_path) as process:
        (tmp_path / "lock").write_text(content)
        with pytest.raises(SettingsError, match="in use by another process"):
            Lock().take(tmp_path)
        process.communicate("")


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    """Data workers outlive a killed parent by some seconds, and the run must be able to go on."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:  # the holder, which leaves a child behind and dies
        Lock().take(tmp_path)
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)  # until the test has ended
            os._exit(0)
        os._exit(9)
    os.waitpid(parent, 0)
    lock = Lock()
    lock.take(tmp_path)
    lock.release()
    os.write(write, b".")
