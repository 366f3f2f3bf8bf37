"""How soon our recipe is as good as a tutorial's, what the loop and what the recipe has of that; and how soon at 90 %.

    python benchmarks/recipes.py PARQUET_FOLDER [--seed N]

The tutorial trains a ResNet-9 for 8 epochs (configs/resnet9_onecycle.yaml). Its recipe is trained to its end by our
trainer, then ours with more epochs each time until it ends as high. What the tutorial's own loop would take is not
waited for: that is the time of its recipe here, times how much slower its loop trains, measured by turns.

The seconds are those of training alone. Those of the views are of the whole command that asks for them.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from record import RECIPE, Training, ours, train
from throughput import ROOT, WORKS, compare, run

THEIRS = ROOT / "configs/resnet9_onecycle.yaml"
EPOCHS = range(4, 9)  # of ours, until they end as high
LONG, VIEWS = 10, "shift"  # epochs of ours, and what each test image is then also seen as, for 90 %


def theirs(folder: Path, seed: int) -> Training:
    """Their recipe in our trainer."""
    with tempfile.TemporaryDirectory() as out:
        return train(THEIRS, folder, Path(out), "--seed", seed)


def seen_from_all_sides(folder: Path, seed: int) -> tuple[Training, Training]:
    """Ours for ``LONG`` epochs, and then with the views of each test image, whose seconds are added."""
    with tempfile.TemporaryDirectory() as out:
        found = train(RECIPE, folder, Path(out), "--seed", seed, "--epochs", LONG)
        started = time.perf_counter()
        flags = ["--checkpoint", "latest", "--views", VIEWS, "--json"]
        told = run([sys.executable, "-m", "distrib", "evaluate", Path(out) / "run", *flags])
        seconds = time.perf_counter() - started
    return found, Training(found.seconds + seconds, json.loads(told.splitlines()[-1])["top1"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="CIFAR-10 as parquet files")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    for views, found in zip(("one", VIEWS), seen_from_all_sides(folder, asked.seed), strict=True):
        print(f"ours, {LONG} epochs, --views {views}: {found.top1:.2%} in {found.seconds:.1f} s", flush=True)
    other = theirs(folder, asked.seed)
    print(f"the tutorial's, in our trainer: {other.top1:.2%} in {other.seconds:.1f} s", flush=True)
    for epochs in EPOCHS:
        mine = ours(folder, asked.seed, "--epochs", epochs)
        print(f"ours, {epochs} epochs: {mine.top1:.2%} in {mine.seconds:.1f} s", flush=True)
        if mine.top1 >= other.top1:
            break
    else:
        raise SystemExit("ours did not end as high")
    loop = compare(WORKS["resnet9"], ["tutorial9"])["tutorial9"]
    recipe = other.seconds / mine.seconds
    print(f"the loop's share: {loop}")
    print(f"the recipe's share: {recipe:.2f}")
    written = loop.median * other.seconds
    print(f"both: {loop.median * recipe:.1f}, {written:,.0f} s as written against {mine.seconds:.0f} s")


if __name__ == "__main__":
    main()
