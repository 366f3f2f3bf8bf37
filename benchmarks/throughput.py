"""Images per second of ``distrib/train.py`` against other loops, on the same network and batch, by turns.

    python benchmarks/throughput.py NETWORK [--rounds N] [--against LOOP ...] [--device cuda]

Where timm and Lightning are installed (benchmarks/peers.txt), they and Accelerate's loop take part.

Each figure is of a process of its own, from the end of its warm-up to its last update. ``distrib`` is the command as a
user types it, with its journal, checks and console; its figure is the one its own journal holds.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from interleaved import Measure, Ratio, against
from loops.stopwatch import images
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LOOPS = ROOT / "benchmarks/loops"
READ_FILES = ("timm", "tutorial9")  # the others have their images in memory


@dataclass(frozen=True)
class Work:
    """What is trained: a network, images of an update, and updates after those that warm up."""

    network: str
    batch: int
    warm_up: int
    updates: int
    device: str = "cpu"
    epochs: int = 1
    flags: tuple[str, ...] = ()
    """More of the command's, so that it does what the tutorial does."""

    @classmethod
    def on_gpu(cls, network: str) -> "Work":
        """As much as a GPU does in about as long."""
        return cls(network, batch=512, warm_up=20, updates=200, device="cuda", epochs=11)


WORKS = {
    "simplecnn": Work("simplecnn", 128, 40, 200),
    "resnet18": Work("resnet18", 128, 3, 18),
    "resnet9": Work("resnet9", 400, 3, 6, flags=("--optimizer", "adam", "--clip-value", "0.1")),
}


def distrib(work: Work, precision: str) -> float:
    """Images/s of the command itself."""
    every = 20 if work.updates % 20 == 0 else work.warm_up  # between looks at the losses
    with tempfile.TemporaryDirectory() as out:
        images = work.batch * (work.warm_up + work.updates) // work.epochs
        flags = {
            "model": work.network, "batch-size": work.batch, "precision": precision, "out": out, "name": "run",
            "data": "synthetic", "image-size": 32, "train-images": images, "test-images": 16, "epochs": work.epochs,
            "log-every": every, "wandb": "off", "device": work.device,
        }  # fmt: skip
        command = [sys.executable, ROOT / "distrib/train.py", "--no-report"]
        run([*command, *work.flags, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])
        lines = map(json.loads, (Path(out) / "run/metrics.jsonl").read_text().splitlines())
        speeds = [record["images_per_second"] for record in lines if record["kind"] == "update"]
    steady = speeds[work.warm_up :]
    return len(steady) / sum(1 / speed for speed in steady)


def loop(script: str, name: str, work: Work, precision: str = "fp32", folder: Path | None = None) -> float:
    """Images/s of a loop of ``benchmarks/loops``."""
    flags = {
        "network": work.network, "batch": work.batch, "warm-up": work.warm_up, "updates": work.updates,
        "precision": precision, "device": work.device,
    }  # fmt: skip
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    place = ["--folder", str(folder)] if folder else []
    told = run([sys.executable, LOOPS / f"{script}.py", name, *words, *place])
    found = re.search(r'{"images_per_second": ([0-9.]+)}', told)  # after which some trainers still say good-bye
    assert found is not None, told
    return float(found[1])


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


def contestants(work: Work, folder: Path) -> dict[str, Measure]:
    """The command and what it is measured against, by name."""
    tuned = partial(loop, "plain", "tuned", work, precision="bf16")
    found: dict[str, Measure] = {"distrib": partial(distrib, work, "bf16"), "tuned": tuned}
    fewer = replace(work, updates=work.updates // 2)  # others take two to four times as long
    plain, peer = (partial(loop, script, work=fewer) for script in ("plain", "peers"))
    if work.network == "resnet9":
        return found | {"tutorial9": partial(plain, name="tutorial9", folder=folder / "train")}
    found["notebook"] = partial(plain, name="notebook")
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("lightning") is None:
        return found
    for name in ("accelerate", "lightning", "timm"):
        for precision in ("fp32", "bf16"):
            found[f"{name} {precision}"] = partial(peer, name=name, precision=precision, folder=folder)
    return found


def compare(work: Work, rounds: int, only: list[str] | None = None) -> dict[str, Ratio]:
    """How many times as fast the command is as each other; as those alone whose names begin with one of ``only``."""
    with tempfile.TemporaryDirectory() as folder:
        known = contestants(work, Path(folder))
        ours = known.pop("distrib")
        chosen = {name: other for name, other in known.items() if only is None or name.startswith(tuple(only))}
        if any(name.startswith(READ_FILES) for name in chosen):
            write_images(Path(folder))
        return against(ours, chosen, rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=WORKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", nargs="*", help="only those whose names begin so")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    work = WORKS[asked.network] if asked.device == "cpu" else Work.on_gpu(asked.network)
    for other, times in compare(work, asked.rounds, asked.against).items():
        print(f"distrib / {other}: {times}")


if __name__ == "__main__":
    main()
