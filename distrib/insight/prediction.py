"""``distrib predict RUN IMAGES...``: the classes that a run's network sees in image files."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from distrib.command import refuse
from distrib.images.decoding import ImageError, centre, pixels, rgb
from distrib.images.sources import SUFFIXES
from distrib.insight.runs import Run, Which, load_run
from distrib.lifecycle.processes import choose_device
from distrib.settings import SettingsError

BATCH = 64  # images at once


@dataclass(frozen=True)
class Request:
    """Name the classes of image files with a run's network."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, or folders of them."""
    top: int = 3
    """Number of classes for each image."""
    checkpoint: Which = "best"
    """Which of the run's checkpoints."""
    ema: bool = False
    """Use the average of the weights instead of the weights."""
    json: bool = False
    """Print one JSON object for each image, a line each."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, with their probabilities of 1."""

    image: str
    classes: list[str]
    probabilities: list[float]


def main(arguments: list[str]) -> int:
    """Predict as the arguments ask; return the exit code: 1 if an image could not be used, after all others."""
    request = tyro.cli(Request, args=arguments, prog="distrib predict")
    try:
        run = load_run(request.run, request.checkpoint)
        files = list(find(request.images))
        bad: list[str] = []
        for prediction in predict(run, files, top=request.top, ema=request.ema, bad=bad):
            print(json.dumps(asdict(prediction)) if request.json else text(prediction))
    except SettingsError as error:
        refuse(str(error))
    for message in bad:
        print(f"error: {message}", file=sys.stderr)
    return 1 if bad else 0


def find(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The files among ``paths``, and the image files anywhere in the folders among them.

    Raises:
        SettingsError: there is none, or a path does not exist.
    """
    if not paths:
        raise SettingsError("name image files to predict, or folders of them")
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.exists():
            yield path
        else:
            raise SettingsError(f"there is no file {path}")


@torch.inference_mode()
def predict(run: Run, files: list[Path], *, top: int, ema: bool, bad: list[str]) -> Iterator[Prediction]:
    """Predict files in batches, leaving out those that are no images: ``bad`` takes a message for each."""
    device = torch.device(choose_device("auto", os.environ))
    network = run.network(ema=ema).to(device)
    prepared = run.preprocessing
    for start in range(0, len(files), BATCH):
        images, names = [], []
        for file in files[start : start + BATCH]:
            try:
                images.append(torch.from_numpy(pixels(centre(rgb(file, str(file)), prepared.size))))
                names.append(str(file))
            except ImageError as error:
                bad.append(str(error))
        if not images:
            continue
        batch = prepared.normalise(torch.stack(images).to(device), channels_last=run.settings.compute.channels_last)
        likely = network(batch).float().softmax(1).topk(min(top, len(prepared.classes)))
        for name, indices, values in zip(names, likely.indices.tolist(), likely.values.tolist(), strict=True):
            yield Prediction(name, [prepared.classes[i] for i in indices], [round(v, 6) for v in values])


def text(prediction: Prediction) -> str:
    """A line for a person."""
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return f"{prediction.image}  " + "  ".join(f"{name} {probability:.1%}" for name, probability in pairs)
