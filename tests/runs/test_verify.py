"""`distrib verify restart`, which proves that killed runs go on bit for bit: that it does, and that it can fail."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT, environment, follow, run

VERIFY = [sys.executable, "-m", "distrib", "verify", "restart"]
TORCHRUN = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])
# Trains the run that is killed from other first weights than the one that is not.
CHEAT = """
import os, sys
cheat = ["--seed=1"] if "--name=killed" in sys.argv else []
os.execv(sys.executable, [sys.executable, *sys.argv[1:], *cheat])
"""
ROW = re.compile(r"^ +(\d+)  (\S+ ?\d*) +(group|rank \d) +(\d+)  (\d+|was finished)$", re.MULTILINE)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that name a folder."""
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if str(folder) in line]


@pytest.mark.slow
def test_two_ranks_killed_twice_go_on_bit_for_bit(tmp_path):
    # By this seed rank 1 is killed at the end of an epoch, and then both ranks between two checkpoints.
    words = [*VERIFY, "--launcher", TORCHRUN, "--kills", "2", "--updates", "30", "--seed", "12"]
    done = run(words, TMPDIR=str(tmp_path))
    assert "30 updates by 2 processes" in done.stdout
    rows = ROW.findall(done.stdout)
    assert [(aimed.strip(), killed) for _, aimed, killed, _, _ in rows] == [
        ("evaluation 20", "rank 1"),
        ("update 21", "group"),
    ]
    for _, aimed, _, after, on in rows:
        assert int(after) >= int(aimed.split()[1])
        assert int(on) <= int(after)
        assert int(on) % 4 == 0 or int(on) % 10 == 0  # where it saves: every 4 updates, and after an epoch
    for same in ("model", "optimizer", "ema", "statistics", "counters", "updates", "losses"):
        assert re.search(f"^{same} +same ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^updates +same +1 to 30 in both journals, each once$", done.stdout, re.MULTILINE)
    assert re.search(r"^world size +same +2 in all 4 starts$", done.stdout, re.MULTILINE)
    assert "SAME: killed 2 of 2 times, the run is bit for bit" in done.stdout
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("distrib-verify-*")) == []


@pytest.mark.slow
def test_a_run_that_is_another_after_all_exits_1_and_stays(tmp_path):
    script = tmp_path / "cheat.py"
    script.write_text(CHEAT)
    words = [*VERIFY, "--launcher", shlex.join([sys.executable, str(script)]), "--kills=1", "--updates=12", "--seed=1"]
    done = run(words, expect=1, TMPDIR=str(tmp_path))
    assert re.search(r"^model +DIFFERENT  first differing tensor: ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^losses +DIFFERENT  loss of the update at update 1: ", done.stdout, re.MULTILINE)
    assert re.search(r"^updates +same ", done.stdout, re.MULTILINE)
    assert re.search(r"^world size +same +1 in all 3 starts$", done.stdout, re.MULTILINE)
    assert "DIFFERENT: the run that was killed is not the run that was not" in done.stdout
    (kept,) = tmp_path.glob("distrib-verify-*")
    assert f"are in {kept}" in done.stdout
    assert {path.name for path in kept.iterdir()} == {"whole", "killed", "whole.log", "killed-0.log", "killed-1.log"}


def test_flags_that_cannot_be_trained_exit_2_with_what_training_said(tmp_path):
    done = run([*VERIFY, "--dir", str(tmp_path), "--", "--epochs", "0"], expect=2)
    assert "the undisturbed run failed with exit code 2" in done.stderr
    assert "--epochs is at least 1" in done.stderr


def test_asked_to_leave_it_takes_its_processes_along(tmp_path):
    process = subprocess.Popen(
        [*VERIFY, "--launcher", TORCHRUN, "--dir", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a signal to it alone
    )
    follow(process, tmp_path / "whole", lambda record: record.get("update", 0) >= 3)
    assert len([line for line in processes_of(tmp_path) if "train.py" in line]) == 3  # torchrun and two ranks
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert processes_of(tmp_path) == []
