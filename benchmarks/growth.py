"""How time and memory grow with the images, the classes and the updates of a run.

    python benchmarks/growth.py [images | classes | updates]

For each number, in a process of its own, the seconds of each part and the most memory that the process held more.

images: to list a folder and order it, to make its fingerprint, to draw the order of an epoch. No file is there: what
the operating system would list is made up, so that its own time, which depends on the disk, is left out.
classes: what a report finds out about 10,000 test images, to write and read that as JSON, and to make its page; the
probabilities that it is found out from, of every image and class, are of the memory.
updates: to cut a journal back, as a restart does; to read it, as the end of a run does; to make the page of its curves.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from PIL import Image

from distrib.images import sources
from distrib.images.order import permutation
from distrib.insight import findings
from distrib.insight.history import COLUMNS, load_history
from distrib.insight.predictions import Predictions
from distrib.insight.report import analysis, page
from distrib.insight.report.seen import image_sections
from distrib.insight.report.writing import journal_sections
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.journal import cut_back

FOLDERS = 1000  # classes of the images
TESTED = 10_000  # images of the classes
LONG = 1000  # updates of an epoch


class Clock:
    """Seconds of parts, and the most memory since it was made, in MiB."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        started = time.perf_counter()
        yield
        self.found[name] = time.perf_counter() - started

    def stop(self, **more: float) -> dict[str, float]:
        """All that was found."""
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before
        return self.found | {"MiB": held / 1024} | more


def entries(folder: Path, images: int) -> list[SimpleNamespace]:
    """What a folder of a class would list."""
    kinds = {"is_file": lambda: True, "is_symlink": lambda: False}
    return [SimpleNamespace(name=f"{folder.name}_{number:08}.jpeg", **kinds) for number in range(images // FOLDERS)]


def with_images(count: int) -> dict[str, float]:
    """Of a folder of so many images."""
    classes = tuple(f"n{number:08}" for number in range(FOLDERS))
    gc.disable()  # it knows nothing of what the operating system lists, but would of what stands for that here
    listed = mock.patch.object(sources, "_entries", lambda folder: entries(folder, count))
    clock = Clock()
    with clock.part("list"), listed, mock.patch.object(Path, "is_dir", return_value=True):
        split = sources._files(Path("/images/train"), classes)  # noqa: SLF001 - what --data folder: lists with
    assert len(split.names) == count
    with clock.part("fingerprint"):
        split.fingerprint()
    with clock.part("order"):
        permutation(0, 0, count)
    return clock.stop()


def with_classes(count: int) -> dict[str, float]:
    """Of the report of a network for so many classes."""
    clock, draws = Clock(), np.random.default_rng(0)
    label, taken = draws.integers(0, count, (2, TESTED))
    probabilities = np.full((TESTED, count), 0.5 / count, np.float32)
    probabilities[range(TESTED), np.where(draws.random(TESTED) < 0.7, label, taken)] = 0.5
    names = np.array([f"n{number:08}" for number in range(count)])
    features = draws.normal(size=(TESTED, 50)).astype(np.float32)
    said = Predictions(np.arange(TESTED), label, probabilities, features, names)
    with clock.part("find"):
        found = analysis.find(said, update=1)
    with tempfile.TemporaryDirectory() as out, clock.part("save and load"):
        (Path(out) / "report.json").write_text(findings.dump(found), encoding="utf-8")
        assert findings.load(Path(out) / "report.json") == found
    with clock.part("page"):
        text = page.page("", "", image_sections(said, found, lambda _: Image.new("RGB", (32, 32))))
    return clock.stop(MB=len(text) / 1e6)


def with_updates(count: int) -> dict[str, float]:
    """Of the journal of so many updates."""
    with tempfile.TemporaryDirectory() as out:
        folder = RunFolder(Path(out))
        folder.settings.write_text("{}\n")
        with folder.journal.open("w") as file:
            for update in range(1, count + 1):
                numbers = dict.fromkeys(COLUMNS, update / 7) | {"update": update, "epoch": update // LONG + 1}
                file.write(json.dumps({"kind": "update"} | numbers) + "\n")
                if update % LONG == 0:
                    file.write(json.dumps(an_epoch(update)) + "\n")
        clock = Clock()
        with clock.part("cut back"):
            cut_back(folder.journal, count, count // LONG)
        with clock.part("read"):
            history = load_history(folder.journal)
        assert len(history.updates["update"]) == count
        with clock.part("page"):
            text = page.page("", "", journal_sections(folder, history))
        return clock.stop(MB=len(text) / 1e6)


def an_epoch(update: int) -> dict[str, object]:
    """The record of an epoch that ends with an update."""
    scores = dict.fromkeys(("train_loss", "test_loss", "train_top1", "test_top1", "test_top5"), update / (update + 7))
    return {"kind": "epoch", "update": update, "epoch": update // LONG, "seconds": 9.0, **scores}


GROWING: dict[str, tuple[Callable[[int], dict[str, float]], tuple[int, ...]]] = {
    "images": (with_images, (140_000, 1_400_000, 14_000_000)),
    "classes": (with_classes, (100, 1000, 10_000)),
    "updates": (with_updates, (10_000, 100_000, 1_000_000)),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=GROWING, help="None: all of them")
    parser.add_argument("--one", type=int, metavar="N", help="measure this number in this process and print JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(GROWING[asked.what][0](asked.one)))
        return
    for what in [asked.what] if asked.what else GROWING:
        for count in GROWING[what][1]:
            command = [sys.executable, __file__, what, "--one", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            parts = ", ".join(f"{name} {value:,.1f}" for name, value in json.loads(done.stdout).items())
            print(f"{count:>12,} {what}: {parts}", flush=True)


if __name__ == "__main__":
    main()
