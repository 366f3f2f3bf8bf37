"""How long a run takes to leave after it was asked to stop, under each launcher.

    python benchmarks/reaction.py [TIMES]

A ResNet-18 learns images of 32x32 pixels in one process, under `accelerate launch`, and in two processes of torchrun.
At random moments a launcher gets SIGTERM; printed are the seconds until all processes have left, with everything saved.
Some five minutes on two CPU cores.
"""

import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "python": [sys.executable],
    "accelerate launch": [str(BIN / "accelerate"), "launch", "--num_processes=1"],
    "torchrun, 2 processes": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=2"],
}
FLAGS = ["--data=synthetic", "--train-images=6400", "--test-images=3000", "--model=resnet18", "--batch-size=64"]
FLAGS += ["--device=cpu", "--wandb=off", "--log-every=1", "--epochs=50"]


def leave(launcher: list[str], out: str, moment: float) -> tuple[float, int]:
    """Seconds from SIGTERM, ``moment`` seconds after the first update, to the end, and the update at which it ended."""
    command = [*launcher, str(ROOT / "distrib" / "train.py"), *FLAGS, "--out", out, "--name", "asked"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **quiet)  # noqa: S603
    journal = Path(out) / "asked" / "metrics.jsonl"
    before = journal.read_text().count('"kind": "update"') if journal.exists() else 0
    while not journal.exists() or journal.read_text().count('"kind": "update"') <= before:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGTERM)
    asked = time.perf_counter()
    process.communicate()  # to the end of the last process that holds the pipe
    seconds = time.perf_counter() - asked
    last = json.loads(journal.read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("stop", 75), last
    return seconds, last["update"]


def main() -> None:
    """Measure and print."""
    times, draws = int(sys.argv[1]) if len(sys.argv) > 1 else 5, random.Random(0)
    for name, launcher in LAUNCHERS.items():
        with tempfile.TemporaryDirectory() as out:
            found = [leave(launcher, out, draws.uniform(0, 12))[0] for _ in range(times)]
        told = ", ".join(f"{seconds:.1f}" for seconds in sorted(found))
        print(f"{name}: {told} s (median {statistics.median(found):.1f})", flush=True)


if __name__ == "__main__":
    main()
