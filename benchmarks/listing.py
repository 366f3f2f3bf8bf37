"""How time and memory grow with the number of images: a simulated folder of files, up to 14 million of them.

    python benchmarks/listing.py [--images N ...]

For each number, in a process of its own: seconds to list the folder and order it, to make its fingerprint, and to draw
the order of an epoch; and the most memory that the process held. No file is there: what the operating system would
list is made up, so that its own time, which depends on the disk, is left out.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from distrib.images import sources
from distrib.images.order import permutation

CLASSES = 1000
COUNTS = (140_000, 1_400_000, 14_000_000)


def entries(folder: Path, images: int) -> list[SimpleNamespace]:
    """What a folder of a class would list."""
    kinds = {"is_file": lambda: True, "is_symlink": lambda: False}
    return [SimpleNamespace(name=f"{folder.name}_{number:08}.jpeg", **kinds) for number in range(images // CLASSES)]


def measure(images: int) -> dict[str, float]:
    """Seconds of each part, and the most memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    classes = tuple(f"n{number:08}" for number in range(CLASSES))
    seconds = {}
    gc.disable()  # it knows nothing of what the operating system lists, but would of what stands for that here
    started = time.perf_counter()
    listed = mock.patch.object(sources, "_entries", lambda folder: entries(folder, images))
    with listed, mock.patch.object(Path, "is_dir", return_value=True):
        split = sources._files(Path("/images/train"), classes)  # noqa: SLF001 - what --data folder: lists with
    seconds["list"] = time.perf_counter() - started
    assert len(split.names) == images
    started = time.perf_counter()
    split.fingerprint()
    seconds["fingerprint"] = time.perf_counter() - started
    started = time.perf_counter()
    permutation(0, 0, images)
    seconds["order"] = time.perf_counter() - started
    return seconds | {"MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.images[0])))
        return
    for images in asked.images:
        command = [sys.executable, __file__, "--one", "--images", str(images)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        found = json.loads(done.stdout)
        parts = ", ".join(f"{name} {value:,.1f}" for name, value in found.items())
        print(f"{images:>12,} images: {parts}", flush=True)


if __name__ == "__main__":
    main()
