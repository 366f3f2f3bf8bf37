"""What preemptions cost a job of Slurm.

    eval "$(slurm/local_cluster env)"; python benchmarks/preemption.py [TIMES]

ResNet-18 of half the width learns images of 32x32 pixels on two nodes of the cluster that SLURM_CONF names, once
undisturbed and once told TIMES (5) times that it has to go (SIGUSR2, as --signal sends it before a job's time is up).
Printed are the seconds of each preemption, to a fifth: from the signal to the end of the saved run, from there until
Slurm starts the job again, and from that to the first new update. Some five minutes on two CPU cores.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UPDATES = 120
FLAGS = ["--data=synthetic", "--train-images=1920", "--test-images=320", "--model=resnet18", "--batch-size=32"]
FLAGS += ["--width=32", "--device=cpu", "--wandb=off", "--no-report", "--log-every=1", f"--epochs={UPDATES // 60}"]


def slurm(*words: str) -> str:
    """What a command of Slurm's prints."""
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # the nodes are one machine, whose cores they share
    return subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout  # noqa: S603


class Job:
    """A job that trains a run on two nodes."""

    def __init__(self, out: Path) -> None:
        self.output, self.journal = out / "job.out", out / "job" / "metrics.jsonl"
        words = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={self.output}"]
        self.number = slurm(*words, "slurm/resnet.sh", *FLAGS, f"--out={out}", "--name=job").strip()

    def state(self) -> str:
        """Slurm's word for it."""
        return re.findall(r"JobState=(\S+)", slurm("scontrol", "show", "job", self.number))[0]

    def records(self) -> list[dict]:
        """What stands in the journal, but for a last line that is being written."""
        text = self.journal.read_text() if self.journal.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def count(self, event: str) -> int:
        """How often the run has had an event."""
        return sum(record.get("event") == event for record in self.records())

    def update(self) -> int:
        """The last update that the journal tells of."""
        return max((record["update"] for record in self.records() if record["kind"] == "update"), default=0)

    def wait(self, holds: Callable[[], bool]) -> float:
        """Wait until something holds; the time at which it does."""
        while not holds():
            assert self.state() not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), self.output.read_text()
            time.sleep(0.2)  # leaves the cores to the job
        return time.perf_counter()


def preempt(job: Job, times: int) -> tuple[float, float, float]:
    """Preempt a job for the ``times``-th time; the seconds of the three parts."""
    asked = time.perf_counter()
    slurm("scancel", "--signal=USR2", job.number)
    saved = job.wait(lambda: job.count("stop") == times)
    stood = job.update()
    started = job.wait(lambda: job.output.read_text().count("processes on") == times + 1)
    going = job.wait(lambda: job.update() > stood)
    return saved - asked, started - saved, going - started


def train(times: int) -> tuple[float, list[tuple[float, float, float]]]:
    """Seconds from the first update to the end of a job that is preempted so many times, and those of each."""
    with tempfile.TemporaryDirectory() as out:
        job = Job(Path(out))
        begun = job.wait(lambda: job.update() > 0)
        parts = []
        for turn in range(1, times + 1):
            job.wait(lambda turn=turn: job.update() >= turn * UPDATES // (times + 1))
            parts.append(preempt(job, turn))
        ended = job.wait(lambda: job.state() == "COMPLETED")
        assert job.update() == UPDATES
        return ended - begun, parts


def main() -> None:
    """Measure and print."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    quiet, _ = train(0)
    disturbed, parts = train(times)
    names = (
        "from the signal to saved",
        "until it left and Slurm starts it again",
        "from there to the first new update",
    )
    for name, seconds in zip(names, zip(*parts, strict=True), strict=True):
        told = ", ".join(f"{one:.1f}" for one in sorted(seconds))
        print(f"{name}: {told} s (median {statistics.median(seconds):.1f})")
    waited = sum(part[1] for part in parts)
    lost = disturbed - quiet - waited
    print(f"{UPDATES} updates: {quiet:.0f} s undisturbed, {disturbed:.0f} s with {times} preemptions")
    print(f"lost: {lost:.0f} s, {lost / times:.1f} s each, besides {waited:.0f} s in the queue")


if __name__ == "__main__":
    main()
