"""``distrib evaluate RUN``: the scores of a run's network on its test images."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import nn

from distrib.images import sources
from distrib.images.feed import TestFeed
from distrib.images.views import Views
from distrib.insight import predictions
from distrib.insight.runs import Run, Which, load_run
from distrib.insight.summary import aligned
from distrib.learning.scoring import Scores, evaluate
from distrib.lifecycle.ending import Ending, say
from distrib.lifecycle.processes import Processes, start
from distrib.settings import Precision, SettingsError


@dataclass(frozen=True)
class Request:
    """Score a run's network on its test images, each exactly once."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    checkpoint: Which = "best"
    """Which of its checkpoints."""
    ema: bool = False
    """Score the average of the weights instead of the weights."""
    data: str | None = None
    """Score on the test images of this data set instead (as --data of training); its classes must be the same."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA, else Apple's MPS, else the CPU; not necessarily what the run was trained on."""
    precision: Precision | None = None
    """None: the run's own."""
    views: Views = "one"
    """Ask about each image as it is, also mirrored, or also shifted by a pixel both ways, and average the logits."""
    save: Path | None = None
    """Also write what the network says of each image, of one view, to this file: .npz or .parquet."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: list[str]) -> int:
    """Evaluate as the arguments ask; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib evaluate")
    with Ending() as ending:
        if request.save is not None:
            predictions.check_kind(request.save)
        run = load_run(request.run, request.checkpoint)
        precision = request.precision or run.settings.compute.precision
        compute = dataclasses.replace(run.settings.compute, device=request.device, precision=precision)
        processes = start(compute)
        ending.then(processes.close)
        if (path := request.save) is not None:
            processes.agreed(lambda: predictions.check_folder(path))
        network, feed = prepare(run, processes, data=request.data, ema=request.ema)
        channels_last = run.settings.compute.channels_last
        scores = evaluate(network, feed, processes, channels_last=channels_last, views=request.views)
        if processes.is_main:
            _show(run, scores, as_json=request.json)
        if path is not None:
            found = predictions.collect(network, feed, processes, channels_last=channels_last)
            processes.agreed(lambda: predictions.save(found, path))
    return ending.code


def prepare(
    run: Run, processes: Processes, *, data: str | None = None, ema: bool = False
) -> tuple[nn.Module, TestFeed]:
    """The run's network on the device, and its test images, or those of another data set. Every process must call it.

    Raises:
        SettingsError: there is no such data set, or it has other classes; the run kept no average of its weights.
    """
    settings = run.settings
    asked = dataclasses.replace(settings.data, data=data or settings.data.data)
    place = processes.agreed(lambda: sources.locate(asked))
    found = processes.node_first(lambda: sources.load(place, asked))
    if found.classes != run.preprocessing.classes:
        raise SettingsError(f"--data {place} has other classes than the run was trained on")
    feed = TestFeed(found.test, run.preprocessing, settings, processes, processes.device)
    layout = torch.channels_last if settings.compute.channels_last else torch.contiguous_format
    network = run.network(ema=ema).to(processes.device, memory_format=layout)  # type: ignore[call-overload]
    return network, feed


def _show(run: Run, scores: Scores, *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"checkpoint": str(run.checkpoint.path), **dataclasses.asdict(scores)}), sys.stdout)
        return
    rows = [
        ("checkpoint", str(run.checkpoint.path)),
        ("test images", f"{scores.count:,}"),
        ("loss", f"{scores.loss:.4f}"),
        ("top-1", f"{scores.top1:.2%}"),
        ("top-5", f"{scores.top5:.2%}"),
    ]
    say("\n".join(aligned(rows)), sys.stdout)
