"""Time to 86 % test accuracy on CIFAR-10: our recipe against the record holder's, by turns.

    python benchmarks/record.py PARQUET_FOLDER [--seeds N]

For each seed both train from scratch, each in a process of its own. The seconds are those of training alone, without
start-up, decoding and evaluation; the accuracy is that of one view of each test image, at the end.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml
from interleaved import Ratio
from throughput import LOOPS, ROOT, run

RECIPE = ROOT / "configs/cifar10_record.yaml"


class Training(NamedTuple):
    """Of a training: its seconds alone, and the test accuracy that it ended with, of 1."""

    seconds: float
    top1: float


def train(config: Path, folder: Path, out: Path, *flags: object) -> Training:
    """Seconds and accuracy of the command with a recipe, and flags that change it; the run is ``out``/run."""
    common = ["--data", f"hf:{folder}", "--wandb", "off", "--no-report", "--out", out, "--name", "run"]
    run([sys.executable, ROOT / "distrib/train.py", "--config", config, *common, *flags])
    images = yaml.safe_load((out / "run/settings.yaml").read_text())["batch_size"]
    lines = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]
    updates, epochs = ([line for line in lines if line["kind"] == kind] for kind in ("update", "epoch"))
    # Not the seconds of epochs, which hold their evaluations.
    return Training(sum(images / update["images_per_second"] for update in updates), epochs[-1]["test_top1"])


def ours(folder: Path, seed: int, *flags: object) -> Training:
    """Seconds and accuracy of our recipe, and flags that change it."""
    with tempfile.TemporaryDirectory() as out:
        return train(RECIPE, folder, Path(out), "--seed", seed, *flags)


def theirs(folder: Path, seed: int) -> Training:
    """Seconds and accuracy of airbench's recipe of 3 epochs."""
    told = run([sys.executable, LOOPS / "airbench.py", folder, "--epochs", "3", "--seed", str(seed)])
    found = json.loads(told.splitlines()[-1])
    return Training(found["seconds"], found["one"])


def compare(folder: Path, seeds: int) -> tuple[Training, Training, Ratio]:
    """The medians of ours and of theirs, and the ratios of their seconds."""
    found: dict[str, list[Training]] = {"distrib": [], "airbench": []}
    for seed in range(seeds):
        for name, measure in (("distrib", ours), ("airbench", theirs))[:: -1 if seed % 2 else 1]:
            found[name].append(measure(folder.resolve(), seed))
            seconds, top1 = found[name][-1]
            print(f"  seed {seed}: {name} {seconds:.1f} s, {top1:.2%}", flush=True)
    ratios = [mine.seconds / other.seconds for mine, other in zip(*found.values(), strict=True)]
    first, second = (Training(*map(statistics.median, zip(*runs, strict=True))) for runs in found.values())
    return first, second, Ratio(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="CIFAR-10 as parquet files")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    mine, other, ratios = compare(asked.folder, asked.seeds)
    for name, found in (("distrib", mine), ("airbench", other)):
        print(f"{name}: median {found.seconds:.1f} s, {found.top1:.2%}")
    print(f"distrib / airbench: {ratios} of the time")


if __name__ == "__main__":
    main()
