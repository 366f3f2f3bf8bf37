"""``distrib predict RUN IMAGES...``: the classes that a run's network sees in image files."""

import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from distrib.command import refuse
from distrib.images.cropping import centre
from distrib.images.decoding import ImageError, pixels, rgb
from distrib.images.sources import SUFFIXES
from distrib.insight.runs import Run, Which, load_run
from distrib.lifecycle.processes import choose_device
from distrib.settings import SettingsError, require

BATCH = 64  # images at once


@dataclass(frozen=True)
class Request:
    """Name the classes of image files with a run's network."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders of them, or patterns such as 'photos/**/*.jpg'; - reads their names from standard input."""
    top: int = 3
    """Number of classes for each image."""
    flip: bool = False
    """Take the mean over each image and its mirror image."""
    checkpoint: Which = "best"
    """Which of the run's checkpoints."""
    ema: bool = False
    """Use the average of the weights instead of the weights."""
    format: Literal["table", "json", "csv"] = "table"
    """A line for each image: aligned columns, a JSON object, or comma-separated values below their names."""

    def __post_init__(self) -> None:
        require(self.top > 0, "--top is a number of classes: at least 1")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, with their probabilities of 1."""

    image: str
    classes: list[str]
    probabilities: list[float]


def main(arguments: list[str]) -> int:
    """Predict as the arguments ask; return the exit code: 1 if an image could not be used, after all others."""
    bad: list[ImageError] = []
    try:
        request = tyro.cli(Request, args=arguments, prog="distrib predict")
        run = load_run(request.run, request.checkpoint)
        files = list(find(request.images))
        require(files, f"there is no image in {', '.join(request.images)}")
        found = predict(run, files, top=request.top, flip=request.flip, ema=request.ema, on_bad_image=bad.append)
        {"table": show_table, "json": show_json, "csv": show_csv}[request.format](found, files, run)
    except SettingsError as error:
        refuse(str(error))
    for message in bad:
        print(f"error: {message}", file=sys.stderr)
    return 1 if bad else 0


def find(names: Iterable[str]) -> Iterator[Path]:
    """The files among ``names``, those that match a pattern, and the image files anywhere in folders.

    Raises:
        SettingsError: there is none, or a name stands for nothing.
    """
    named = [line for name in names for line in (sys.stdin.read().splitlines() if name == "-" else [name]) if line]
    if not named:
        raise SettingsError(
            "name image files to predict, folders or patterns of them, or - for a list on standard input"
        )
    for name in named:
        path = Path(name)
        try:
            there, is_folder = path.exists(), path.is_dir()
        except (OSError, ValueError) as error:  # too long to be a name, or with a zero in it
            raise SettingsError(f"{name[:100]!r} cannot be the name of a file: {error}") from None
        if is_folder:
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif there:
            yield path
        elif matching := sorted(glob.glob(name, recursive=True)):  # noqa: PTH207 - takes absolute patterns, too
            yield from (Path(match) for match in matching if Path(match).is_file())
        else:
            raise SettingsError(f"there is no file {name}, and none that it matches as a pattern")


@torch.inference_mode()
def predict(
    run: Run,
    files: Iterable[str | Path],
    *,
    top: int = 3,
    flip: bool = False,
    ema: bool = False,
    on_bad_image: Callable[[ImageError], object] | None = None,
) -> Iterator[Prediction]:
    """Predict image files in batches, at the size and normalised as the run's network was trained.

    Args:
        run: what :func:`load_run` opened.
        files: image files.
        top: number of classes for each image.
        flip: whether to take the mean of the probabilities over each image and its mirror image.
        ema: whether to use the average of the weights.
        on_bad_image: called with the error of a file that is no image, which is then left out; None raises it.

    Raises:
        ImageError: a file is no image.
        SettingsError: the run kept no average of its weights.
    """
    device = torch.device(choose_device("auto", os.environ))
    network = run.network(ema=ema).to(device)
    prepared, channels_last = run.preprocessing, run.settings.compute.channels_last
    everything = [str(file) for file in files]
    for start in range(0, len(everything), BATCH):
        names, images = [], []
        for name in everything[start : start + BATCH]:
            try:
                images.append(torch.from_numpy(pixels(centre(rgb(Path(name), name), prepared.size))))
                names.append(name)
            except ImageError as error:
                if on_bad_image is None:
                    raise
                on_bad_image(error)
        if not images:
            continue
        batch = prepared.normalise(torch.stack(images).to(device), channels_last=channels_last)
        views = [batch, batch.flip(3)] if flip else [batch]
        mean = torch.stack([network(view).float().softmax(1) for view in views]).mean(0)
        likely = mean.sort(descending=True, stable=True)  # topk says any of equal ones, where scores say the first
        for name, indices, values in zip(names, likely.indices.tolist(), likely.values.tolist(), strict=True):
            classes = [prepared.classes[index] for index in indices[:top]]
            yield Prediction(name, classes, [round(value, 6) for value in values[:top]])


def show_table(found: Iterable[Prediction], files: list[Path], run: Run) -> None:
    """Print aligned columns."""
    width, widest = max(len(str(file)) for file in files), max(map(len, run.preprocessing.classes))
    for prediction in found:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        cells = [f"{name:<{widest}} {probability:>6.1%}" for name, probability in pairs]
        print("  ".join([f"{prediction.image:<{width}}", *cells]))


def show_json(found: Iterable[Prediction], _files: list[Path], _run: Run) -> None:
    """Print an object a line."""
    for prediction in found:
        print(json.dumps(asdict(prediction)))


def show_csv(found: Iterable[Prediction], _files: list[Path], _run: Run) -> None:
    """Print a table of comma-separated values: image, class_1, probability_1, class_2, ..."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, prediction in enumerate(found):
        if number == 0:
            ranks = range(1, len(prediction.classes) + 1)
            writer.writerow(["image", *(f"{name}_{rank}" for rank in ranks for name in ("class", "probability"))])
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        writer.writerow([prediction.image, *(cell for pair in pairs for cell in pair)])
