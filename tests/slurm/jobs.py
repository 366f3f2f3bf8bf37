"""Jobs of a real Slurm: submitted, watched and signalled as a user does."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.launching import ROOT, environment, journal, pids

PATIENCE = 180.0  # seconds for a job to get where it should


def slurm(*words: object, **changes: str) -> str:
    """What a command of Slurm's prints."""
    done = try_slurm(*words, **changes)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def try_slurm(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm's that may fail."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=environment(SLURM_CONF=os.environ["SLURM_CONF"], **changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@dataclass
class Job:
    """A job, and the folder and output of the run that it trains."""

    number: str
    out: Path
    name: str = "job"

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def output(self) -> str:
        """All that the job has printed, in all its starts."""
        return (self.out / f"{self.name}.out").read_text()

    def facts(self) -> dict[str, str]:
        """What `scontrol show job` says."""
        return dict(re.findall(r"(\w+)=(\S*)", slurm("scontrol", "show", "job", self.number)))

    def wait(self, *states: str) -> dict[str, str]:
        """Wait until the job is in one of the states; its facts."""
        end = time.monotonic() + PATIENCE
        while (facts := self.facts())["JobState"] not in states:
            assert time.monotonic() < end, f"{facts['JobState']}, not {states}:\n{self.output}"
            time.sleep(0.1)  # leaves the cores to the job
        return facts

    def wait_until_over(self) -> dict[str, str]:
        """Wait until the job has ended for good; its facts."""
        facts = self.wait("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        assert self.number not in queued()
        return facts

    def wait_for_update(self, number: int) -> None:
        """Wait until the run has done an update."""
        self.follow(lambda record: record.get("update", 0) >= number)

    def follow(self, enough) -> None:
        """Wait until the journal of the run holds a record that is ``enough``."""
        end = time.monotonic() + PATIENCE
        while not ((self.folder / "metrics.jsonl").exists() and any(map(enough, whole_records(self.folder)))):
            state = self.facts()["JobState"]
            assert state in ("PENDING", "RUNNING", "SIGNALING", "REQUEUED", "COMPLETING"), f"{state}:\n{self.output}"
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def wait_for_other_ranks(self, before: set[int]) -> set[int]:
        """Wait until both ranks run in processes that are none of those before; their pids."""
        end = time.monotonic() + PATIENCE
        while len(found := set(pids(self.folder).values()) - before) < 2:
            assert time.monotonic() < end, self.output
            time.sleep(0.05)
        return found

    def signal(self, name: str) -> None:
        """Send a signal to every process of the job's step, as --signal does before the time is up."""
        slurm("scancel", f"--signal={name}", self.number)


def queued() -> list[str]:
    """The numbers of the jobs that wait or run."""
    return slurm("squeue", "--noheader", "--format=%A").split()


def whole_records(folder: Path) -> list[dict]:
    """The records of a journal that is being written."""
    text = (folder / "metrics.jsonl").read_text()
    return [] if "\n" not in text else journal(folder) if text.endswith("\n") else []


def submit(script: str, out: Path, *flags: object, options: tuple[str, ...] = (), name: str = "job") -> Job:
    """Submit a script of slurm/ that trains the run ``name`` below ``out``."""
    words = ["sbatch", "--parsable", f"--output={out / name}.out", *options, script]
    number = slurm(*words, *flags, "--out", out, "--name", name).strip()
    return Job(number, out, name)


def events(folder: Path, *kinds: str) -> list[dict]:
    """The events of a run's journal of these kinds."""
    return [record for record in journal(folder) if record.get("event") in kinds]
