"""How long people wait: for help, for a typo's answer, for the first update, for a restart, for a checkpoint.

    python benchmarks/waiting.py [--rounds N]

Each figure is the median of processes started one after the other; the first, which finds nothing in the file cache, is
left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, str(ROOT / "distrib/train.py")]
DIGITS = ["--data", "digits", "--model", "simplecnn", "--wandb", "off", "--no-report", "--log-every", "1"]
BIG = ["--model", "resnet50", "--data", "synthetic", "--image-size", "32"]
FEW = ["--train-images", "128", "--test-images", "8"]


def seconds(command: list[str], code: int = 0) -> float:
    """Of a process, from its start to its end."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)  # noqa: S603
    taken = time.perf_counter() - started
    assert done.returncode == code, done.stderr.decode()
    return taken


def updates(journal: Path) -> int:
    """Updates that a journal holds."""
    return journal.read_text().count('"kind": "update"') if journal.exists() else 0


def until_an_update(command: list[str], journal: Path) -> float:
    """Seconds from the start of a run to the next update in its journal; then it is asked to stop."""
    before, started = updates(journal), time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # noqa: S603
        while updates(journal) <= before:
            assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
            time.sleep(0.005)
        taken = time.perf_counter() - started
        process.terminate()
        process.communicate()
    assert process.returncode == 75, "it was to stop with everything saved"
    return taken


def first_update_and_restart() -> tuple[float, float]:
    """Seconds to the first update of a run, and to the next one when it goes on."""
    with tempfile.TemporaryDirectory() as out:
        command = [*TRAIN, *DIGITS, "--epochs", "1000", "--out", out, "--name", "run"]
        journal = Path(out) / "run/metrics.jsonl"
        return until_an_update(command, journal), until_an_update(command, journal)


def stalls() -> list[float]:
    """Seconds for which training waits for each of eight checkpoints of a ResNet-50 with momentum, of 189 MB."""
    with tempfile.TemporaryDirectory() as out:
        flags = ["--epochs", "1", "--batch-size", "8", "--save-every", "2", "--wandb", "off", "--no-report"]
        subprocess.run(  # noqa: S603
            [*TRAIN, *BIG, *FEW, *flags, "--out", out, "--name", "run"], cwd=ROOT, capture_output=True, check=True
        )
        lines = map(json.loads, (Path(out) / "run/metrics.jsonl").read_text().splitlines())
        return [line["wait"] for line in lines if line.get("event") == "checkpoint"]


@dataclass(frozen=True)
class Waits:
    """Seconds, each the median of several."""

    help: float
    typo: float
    first_update: float
    restart: float
    stall: float


def measure(rounds: int) -> Waits:
    """Measure so many times, after once that does not count."""

    def median(once: Callable[[], float]) -> float:
        return statistics.median([once() for _ in range(rounds + 1)][1:])

    pairs = [first_update_and_restart() for _ in range(rounds + 1)][1:]
    first, again = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Waits(
        help=median(lambda: seconds([*TRAIN, "--help"])),
        typo=median(lambda: seconds([*TRAIN, "--modle", "x"], code=2)),
        first_update=first,
        restart=again,
        stall=statistics.median(stalls()),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    for name, value in asdict(measure(parser.parse_args().rounds)).items():
        print(f"{name.replace('_', ' '):<14} {value:.3f} s")


if __name__ == "__main__":
    main()
