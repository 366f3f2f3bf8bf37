import platform
import subprocess
import sys
from pathlib import Path

import pytest

# A checkpoint of a weight of 4 MiB, which is copied and written by threads that begin after training's own.
PROGRAM = """
import os, sys
from pathlib import Path
import torch
from distrib.learning.copies import Copies
from distrib.lifecycle.checkpoints import Retention
from distrib.lifecycle.saving import Saver

def helped():
    return torch.ones(2**20).sum().item() == 2**20

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
weight = torch.ones(2**20)
assert helped()
before = threads()
copies, saver = Copies(), Saver(Path(sys.argv[1]), Retention(1, None), lambda: None)
saver.save({"model": copies.begin("model", {"weight": weight})}, {"update": 1, "epoch": 1}, copies.wait)
assert saver.outcome(wait=True).error is None
assert helped()
print(before, threads() - before, torch.get_num_threads())
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="threads are counted in /proc")
def test_a_checkpoint_starts_its_two_threads_and_no_helpers_of_theirs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, more, of_training = map(int, done.stdout.split())
    assert before >= 3
    assert more == 2
    assert of_training == 3
