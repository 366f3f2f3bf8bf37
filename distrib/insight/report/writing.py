"""``distrib report RUN``: everything there is to see of a run, in one file."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from distrib import command
from distrib.insight import findings
from distrib.insight.history import History, load_history
from distrib.insight.report import curves, page, serving
from distrib.insight.report.page import Section
from distrib.insight.report.serving import Parts
from distrib.insight.summary import duration, spent, verdict
from distrib.lifecycle.ending import Ending, say
from distrib.lifecycle.files import write_whole
from distrib.lifecycle.folder import RunFolder
from distrib.settings import Settings, SettingsError, require


@dataclass(frozen=True)
class Request:
    """Write a report of a run as one HTML file that needs no network: curves, errors, features, layers, a verdict."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path | None = None
    """File to write. None: report.html in the run folder."""
    curves: bool = False
    """Only what the journal tells: no test image is looked at, and no checkpoint needed."""
    serve: bool = False
    """Show the curves as a page on this machine that follows the run while it trains, instead of writing a file."""
    host: str = "127.0.0.1"
    """Address to serve on. 0.0.0.0: everybody who reaches this machine may look."""
    port: int = 8000
    """Port to serve on. 0: any that is free."""


def main(arguments: list[str]) -> int:
    """Write the report as the arguments ask; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib report")
    with Ending() as ending:
        folder = RunFolder(request.run)
        if request.serve:
            serving.serve(folder.name, Parts(folder.journal, lambda: curves_of(folder)), request.host, request.port)
        else:
            write_page(folder, request, ending)
    return ending.code


def curves_of(folder: RunFolder) -> tuple[str, list[Section]]:
    """The verdict in a line, and the parts of the page that the journal tells."""
    history = load_history(folder.journal)
    return one_line(history), journal_sections(folder, history)


def write_page(folder: RunFolder, request: Request, ending: Ending) -> None:
    """Write the file that was asked for."""
    out = request.out or folder.report
    line, sections = curves_of(folder)
    require(out.parent.is_dir(), f"{out} cannot be written: there is no folder {out.parent}")
    if not request.curves:
        from distrib.insight.report.seen import network_sections  # noqa: PLC0415 - seconds, of torch and more

        more, found = network_sections(request.run, ending)
        sections += more
        write(out.with_suffix(".json"), findings.dump(found))
    write(out, page.page(folder.name, line, sections))
    say(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)", sys.stdout)


def write(out: Path, text: str) -> None:
    """Write the file, whole or not at all.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        write_whole(out, text)
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror}") from None


def one_line(history: History) -> str:
    """The verdict in a line."""
    if not history.epochs:
        return "No epoch is finished yet."
    found = verdict(history.epochs)
    return f"{found.best_top1:.2%} test accuracy in epoch {found.best_epoch}; over-fitting: {found.overfitting}"


def journal_sections(folder: RunFolder, history: History) -> list[Section]:
    """What settings, environment and journal tell."""
    settings = command.load(folder.settings)
    clip = settings.optimization.clip_norm
    share = curves.clipped_share(history, clip)
    clipped = page.paragraph(f"{share:.1%} of the updates were clipped to {clip:g}.") if share is not None else ""
    return [
        Section("run", "The run", page.facts(run_facts(folder, settings, history))),
        Section("verdict", "Verdict", page.facts(verdict_facts(history))),
        Section(
            "curves",
            "Loss and accuracy",
            page.chart("loss", curves.loss(history), log=True) + page.chart("accuracy", curves.accuracy(history)),
        ),
        Section("gap", "Train-test gap", page.chart("gap-curve", curves.gap(history))),
        Section(
            "rate",
            "Learning rate and loss of every update",
            page.chart("learning-rate", curves.rate(history), log=True)
            + page.chart("update-loss", curves.update_loss(history), log=True),
        ),
        Section(
            "gradients", "Gradients", clipped + page.chart("gradient-norm", curves.gradients(history, clip), log=True)
        ),
        Section(
            "speed",
            "Speed and memory",
            page.chart("throughput", curves.speed(history)) + page.chart("memory", curves.memory(history)),
        ),
    ]


def run_facts(folder: RunFolder, settings: Settings, history: History) -> list[tuple[str, str]]:
    """What the run is, where and how it ran, and what it cost."""
    where = environment(folder)
    words = where.get("command")
    rows = [
        ("model", settings.model.model),
        ("data", settings.data.data),
        ("recipe", recipe(settings.flat())),
        ("command", shlex.join(map(str, words)) if isinstance(words, list) else "unknown"),
        ("commit", str(where.get("commit", "unknown"))),
        ("device", f"{where.get('device', 'unknown')} ({where.get('device_name', 'unknown')})"),
        ("processes", str(where.get("world_size", "unknown"))),
        ("precision", str(where.get("precision", "unknown"))),
        ("time", duration(spent(history.events))),
    ]
    return [*rows, *restarts(history)]


def recipe(flat: dict[str, Any]) -> str:
    """The settings that a reader asks for first."""
    asked = (
        "epochs",
        "batch_size",
        "optimizer",
        "schedule",
        "lr",
        "momentum",
        "weight_decay",
        "label_smoothing",
        "seed",
    )
    return ", ".join(f"{name} {flat[name]}" for name in asked)


def environment(folder: RunFolder) -> dict[str, Any]:
    """What `environment.json` says; nothing if it cannot be read."""
    try:
        found = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def restarts(history: History) -> list[tuple[str, str]]:
    """Each time the run went on, and what had ended it before."""
    rows: list[tuple[str, str]] = []
    ended = "a death without a word"
    for event in history.events:
        if event["event"] == "resume":
            rows.append((f"restart {len(rows) + 1}", f"at update {event['update']}, after {ended}"))
            ended = "a death without a word"
        elif event["event"] in ("stop", "failed"):
            ended = f"{event.get('signal', 'exit code ' + str(event.get('exit_code')))} at update {event['update']}"
    return rows or [("restarts", "none")]


def verdict_facts(history: History) -> list[tuple[str, str]]:
    """How the run went, in words, and where its time went."""
    if not history.epochs:
        return [("epochs", "none finished")]
    total, training = spent(history.events), sum(record["seconds"] for record in history.epochs)
    rows = verdict(history.epochs).rows()
    return [*rows, ("time in epochs, of all", f"{duration(training)} of {duration(total)}")]
