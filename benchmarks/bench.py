"""All short benchmarks of speed, as one table with a verdict for each figure that was aimed at.

    python benchmarks/bench.py [--full]

Prints the table and writes benchmarks/results/DATE-KIND.json, of which benchmarks/page.py makes docs/performance.md. A
ratio is the median of pairs measured by turns, with the smallest and largest of them. What needs real images takes them
from the folder that DISTRIB_DATA names: cifar10 and imagenet_sample, as parquet files. Without it, it is left out.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import augmentation
import decoding
import record
import throughput
import torch
import waiting
from interleaved import Ratio

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "accelerate", "timm", "lightning")
SEEDS = {"resnet9": ("tutorial9", 3.2), "resnet18": ("notebook", 2.6), "simplecnn": ("notebook", 2.4)}
TUNED = {"resnet9": 0.97, "resnet18": 0.97, "simplecnn": 0.93}
DECODING = {"decoding / v2 on tensors": 1.3, "packed raw / v2 on tensors": 5}
PEERS = {"resnet18": 1.2, "simplecnn": 1.8}  # against the best of them, at its best flags


@dataclass(frozen=True)
class Row:
    """A figure, in words what it is, what it came to, and whether it is what was aimed at."""

    what: str
    figure: str
    aim: str
    met: bool


def at_least(what: str, found: Ratio, least: float) -> Row:
    """A ratio that should not be smaller."""
    return Row(what, str(found), f">= {least}", found.median >= least)


def throughputs(network: str, *, peers: bool) -> list[Row]:
    """The command against the tuned loop, a tutorial's loop and, if asked for, the best peer."""
    seed, least = SEEDS[network]
    found = throughput.compare(throughput.WORKS[network], None if peers else ["tuned", seed])
    rows = [
        at_least(f"{network}: distrib / tuned loop", found["tuned"], TUNED[network]),
        at_least(f"{network}: distrib / {seed} as written", found[seed], least),
    ]
    others = {name: times for name, times in found.items() if " " in name}
    rows += [Row(f"{network}: distrib / {name}", str(times), "", met=True) for name, times in others.items()]
    if others and network in PEERS:
        best = min(others, key=lambda name: others[name].median)
        rows.append(at_least(f"{network}: distrib / best peer, {best}", others[best], PEERS[network]))
    return rows


def below(what: str, figure: float, most: float, unit: str) -> Row:
    """A figure that should be smaller."""
    return Row(what, f"{figure:#.3g} {unit}", f"< {most:g} {unit}", figure < most)


def real(name: str) -> Path | None:
    """The folder of real images of that name, if it is there."""
    folder = Path(os.environ.get("DISTRIB_DATA", "absent")).absolute() / name
    return folder if folder.is_dir() else None


def decodings() -> list[Row]:
    """Photographs decoded, or read from a pack, against torchvision's transforms.v2."""
    folder = real("imagenet_sample")
    if folder is None:
        return []
    found = decoding.compare(folder, rounds=7)
    rows = [Row(name, str(times), "", met=True) for name, times in found.items() if name not in DECODING]
    return [at_least(name, found[name], least) for name, least in DECODING.items()] + rows


def records() -> list[Row]:
    """The record recipe against airbench's, medians of three seeds."""
    folder = real("cifar10")
    if folder is None:
        return []
    ours, theirs, ratios = record.compare(folder, seeds=3)
    return [
        Row("record recipe, test accuracy", f"{ours.top1:.2%} in {ours.seconds:.0f} s", ">= 86 %", ours.top1 >= 0.86),
        Row("airbench's of 3 epochs", f"{theirs.top1:.2%} in {theirs.seconds:.0f} s", "", met=True),
        Row("record recipe / airbench, seconds", str(ratios), "<= 0.85", ratios.median <= 0.85),
    ]


def waits(rounds: int) -> list[Row]:
    """How long people wait."""
    found = waiting.measure(rounds)
    return [
        below("--help", found.help, 0.3, "s"),
        below("answer to a typo", found.typo, 0.3, "s"),
        below("command to first update on digits", found.first_update, 6, "s"),
        Row("restart to next update on digits", f"{found.restart:.3g} s", "", met=True),
        below("training waits for a checkpoint of ResNet-50", found.stall * 1000, 30, "ms"),
    ]


def machine() -> dict[str, str]:
    """What it was measured on, and when."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} x {names[0]}" if names else platform.processor()
    return {"date": time.strftime("%Y-%m-%d"), "machine": processor, "python": platform.python_version(), **versions}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="with all peers and the record")
    asked = parser.parse_args()
    rows = waits(rounds=3 if asked.full else 2)
    speed = augmentation.rate(torch.bfloat16)
    rows.append(Row("augmentation in memory, one thread", f"{speed:,.0f} images/s", ">= 100,000", speed >= 100_000))
    for network in throughput.WORKS:
        rows += throughputs(network, peers=asked.full)
    rows += decodings()
    rows += records() if asked.full else []
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    for row in rows:
        verdict = ("met" if row.met else "NOT MET") if row.aim else ""
        print(f"{row.what:<58} {row.figure:<30} {row.aim:<12} {verdict}")
    RESULTS.mkdir(exist_ok=True)
    kind = "full" if asked.full else "short"
    file = RESULTS / f"{facts['date']}-{kind}.json"
    file.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
