"""Processes that decode come to life."""

import os
import sys

from distrib.images import serving
from tests.launching import run

FIRST_NEVER_BEGINS = """
import os, sys, threading
import psutil
from torch.utils.data import DataLoader
from distrib.images import serving

def hang_if_first():
    with open(sys.argv[1], "a") as births:
        births.write("one\\n")
        births.flush()
        if births.tell() == len("one\\n"):
            threading.Event().wait()

serving.PATIENCE = 2.0
os.register_at_fork(after_in_child=hang_if_first)
batches = serving.served(DataLoader([1, 2], batch_size=None, **serving.served_by(1)))
print(list(batches), "and", len(psutil.Process().children()), "left")
"""


def test_a_process_that_never_begins_is_replaced(tmp_path):
    births = tmp_path / "births"
    done = run([sys.executable, "-c", FIRST_NEVER_BEGINS, str(births)])
    assert done.stdout == "[1, 2] and 0 left\n"
    assert len(births.read_text().splitlines()) >= 2


def test_nobody_waits_for_one_that_died(monkeypatch):
    monkeypatch.setattr(serving, "PATIENCE", 1e6)
    process = serving.Fork().Process(target=os._exit, args=(3,))
    process.start()
    process.join()
    assert process.exitcode == 3
