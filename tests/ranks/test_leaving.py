"""A process of several leaves with its exit code, whatever threads of the process group still do."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.launching import command, run

WORKER = Path(__file__).with_name("leaving_worker.py")


@pytest.mark.parametrize("how", ["leave", "exit"])
def test_a_thread_of_gloo_does_not_abort_a_process_that_has_finished(tmp_path, how):
    if how == "exit" and sys.version_info >= (3, 14):
        pytest.skip("this Python lets such a thread wait for ever, rather than end it")
    os.mkfifo(tmp_path / "leaving")
    done = run([*command(WORKER, 2), str(tmp_path), how], expect=0 if how == "leave" else 1)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [{"num_processes": 2}] * 2
    assert ("terminate called" in done.stderr) == (how == "exit")
