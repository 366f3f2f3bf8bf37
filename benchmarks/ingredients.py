"""What each ingredient of the record recipe is worth: the recipe whole, and without one of them at a time.

    python benchmarks/ingredients.py PARQUET_FOLDER [--seeds N] [--without NAME ...]

Prints, for each, the test accuracy of one view and the seconds of training alone, as medians over the seeds.
"""

import argparse
import statistics
from pathlib import Path

from record import ours

WITHOUT = {
    "nothing": (),
    "whitened first layer": ("--first-weights", "identity"),
    "identity initialisation": ("--first-weights", "whitened"),
    "alternating flip (random instead)": ("--flip", "random"),
    "reflected shifts (black instead)": ("--padding-mode", "zero"),
    "Muon (SGD with 2 as its rate instead)": ("--optimizer", "sgd", "--lr", "2", "--nesterov"),
    "a rate of their own for biases": ("--bias-lr", "None"),
    "label smoothing": ("--label-smoothing", "0"),
    "small images at first": ("--start-size", "None"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="CIFAR-10 as parquet files")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--without", nargs="*", help="only those whose names begin so")
    asked = parser.parse_args()
    for name, flags in WITHOUT.items():
        if asked.without and not name.startswith(tuple(asked.without)):
            continue
        runs = [ours(asked.folder.resolve(), seed, *flags) for seed in range(asked.seeds)]
        seconds, top1 = map(statistics.median, zip(*runs, strict=True))
        print(f"without {name:<42} {top1:.2%} {seconds:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
