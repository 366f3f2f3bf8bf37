"""Images per second of ``distrib/train.py`` against other loops, on the same network and batch, by turns.

    python benchmarks/throughput.py NETWORK [--rounds N] [--against LOOP ...] [--device cuda]

Where timm and Lightning are installed (benchmarks/peers.txt), they and Accelerate's loop take part.

Each figure is of some updates of a process that has warmed up and else stands still. ``distrib`` is the command as a
user types it, with its journal, checks and console.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from contestants import ROOT, Pace, contestant
from interleaved import Measure, Ratio, against
from loops.stopwatch import IMAGES, images
from PIL import Image

LOOPS = ROOT / "benchmarks/loops"
Contest = AbstractContextManager[Measure]
READ_FILES = ("timm", "tutorial9")  # the others have their images in memory


@dataclass(frozen=True)
class Work:
    """What is trained: a network, and the updates that are measured."""

    network: str
    pace: Pace
    rounds: int
    device: str = "cpu"
    flags: tuple[str, ...] = ()
    """More of the command's, so that it does what the tutorial does."""

    @classmethod
    def on_gpu(cls, network: str) -> "Work":
        """As much as a GPU does in about as long."""
        return cls(network, Pace(images=512, warm_up=40, every=20, updates=100), rounds=5, device="cuda")


WORKS = {
    "simplecnn": Work("simplecnn", Pace(images=128, warm_up=20, every=10, updates=30), rounds=15),
    "resnet18": Work("resnet18", Pace(images=128, warm_up=3, every=1, updates=3), rounds=11),
    "resnet9": Work(
        "resnet9",
        Pace(images=400, warm_up=3, every=1, updates=2),
        rounds=5,
        flags=("--optimizer", "adam", "--clip-value", "0.1"),
    ),
}


def distrib(work: Work, folder: Path) -> Contest:
    """The command itself, in bf16."""
    flags = {
        "model": work.network, "batch-size": work.pace.images, "precision": "bf16", "out": folder, "name": "run",
        "data": "synthetic", "image-size": 32, "train-images": IMAGES, "test-images": 16, "epochs": 1000,
        "log-every": work.pace.every, "wandb": "off", "device": work.device,
    }  # fmt: skip
    command = [sys.executable, ROOT / "distrib/train.py", "--no-report", *work.flags, *words(flags)]
    return contestant(command, folder / "run/metrics.jsonl", work.pace)


def loop(script: str, name: str, work: Work, folder: Path, *, precision: str = "fp32") -> Contest:
    """A loop of ``benchmarks/loops``; in ``folder`` are the images of those that read files."""
    journal = folder / f"{name} {precision}.jsonl"
    flags = {
        "network": work.network, "batch": work.pace.images, "every": work.pace.every, "precision": precision,
        "device": work.device, "folder": folder / "train", "journal": journal,
    }  # fmt: skip
    return contestant([sys.executable, LOOPS / f"{script}.py", name, *words(flags)], journal, work.pace)


def words(flags: dict[str, object]) -> list[str]:
    """Of a command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run(command: list[object]) -> str:
    """What a command prints; it must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: S603
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def write_images(root: Path) -> None:
    """Write a tree train/CLASS/*.png of the loops' images, as torchvision's ImageFolder and timm read it."""
    pixels, labels = images()
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = root / "train" / f"class {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05}.png")


def contestants(work: Work, folder: Path) -> dict[str, Callable[[], Contest]]:
    """What the command is measured against, by name."""
    slower = replace(work, pace=replace(work.pace, updates=max(work.pace.updates // 3, 1)))
    plain, peer = (partial(loop, script, work=slower, folder=folder) for script in ("plain", "peers"))
    found = {"tuned": partial(plain, "tuned", work=work, precision="bf16")}
    if work.network == "resnet9":
        return found | {"tutorial9": partial(plain, "tutorial9")}
    found["notebook"] = partial(plain, "notebook")
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("lightning") is None:
        return found
    for name in ("accelerate", "lightning", "timm"):
        for precision in ("fp32", "bf16"):
            found[f"{name} {precision}"] = partial(peer, name, precision=precision)
    return found


def compare(work: Work, only: list[str] | None = None) -> dict[str, Ratio]:
    """How many times as fast the command is as each other; as those alone whose names begin with one of ``only``."""
    found: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        chosen = {
            name: start
            for name, start in contestants(work, folder).items()
            if only is None or name.startswith(tuple(only))
        }
        if any(name.startswith(READ_FILES) for name in chosen):
            write_images(folder)
        names = list(chosen)
        for at in range(0, len(names), 2):  # more of them at once need more memory than some machines have
            with ExitStack() as running, tempfile.TemporaryDirectory() as out:
                ours = running.enter_context(distrib(work, Path(out)))
                others = {name: running.enter_context(chosen[name]()) for name in names[at : at + 2]}
                found |= against(ours, others, work.rounds)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=WORKS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--against", nargs="*", help="only those whose names begin so")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    work = WORKS[asked.network] if asked.device == "cpu" else Work.on_gpu(asked.network)
    if asked.rounds:
        work = replace(work, rounds=asked.rounds)
    for other, times in compare(work, asked.against).items():
        print(f"distrib / {other}: {times}")


if __name__ == "__main__":
    main()
