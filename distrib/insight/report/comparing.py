"""``distrib compare RUN RUN...``: what tells runs apart, as tables and as one HTML file."""

import html
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import plotly.graph_objects as go
import tyro

from distrib.insight import grids
from distrib.insight.comparison import Contender, Difference, Variant, differences, differing, open_runs, variants
from distrib.insight.findings import MOST_CLASSES, Findings
from distrib.insight.history import Column
from distrib.insight.report import cost, curves, page
from distrib.insight.report.cost import Cost
from distrib.insight.report.page import Section
from distrib.insight.report.writing import write
from distrib.insight.runs import load_run
from distrib.insight.summary import columns, duration
from distrib.lifecycle.ending import Ending, say
from distrib.settings import SettingsError, require
from distrib.zoo import anatomy

HEADS = ("run", "parameters", "epochs", "best", "final", "time", "images/s")


@dataclass(frozen=True)
class Request:
    """Compare runs: a table of each, the settings that differ, differences with their confidence, and an HTML file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders."""
    sweep: Path | None = None
    """Folder of a sweep, or its grid's file (with --runs-in): every run of it that has begun."""
    runs_in: Path = Path("runs")
    """Parent of the sweep's folder."""
    out: Path = Path("comparison.html")
    """File to write."""


def main(arguments: list[str]) -> int:
    """Compare as the arguments ask; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib compare")
    with Ending() as ending:
        places = chosen(request)
        runs = open_runs(places)
        costs = [cost_of(path) for path in places]
        found = variants(runs)
        pairs = differences(found)
        told = [*columns([HEADS, *(cells(run, cost) for run, cost in zip(runs, costs, strict=True))])]
        told += ["", *columns(settings_table(runs)), *(f"\n{sentence(pair)}" for pair in pairs)]
        say("\n".join(told), sys.stdout)
        write(request.out, page.page("Comparison", f"{len(runs)} runs", sections(runs, costs, found, pairs)))
        say(f"\nwrote {request.out}", sys.stdout)
    return ending.code


def chosen(request: Request) -> list[Path]:
    """The folders of the runs that were asked for.

    Raises:
        SettingsError: there are fewer than two.
    """
    places = list(request.runs)
    if request.sweep is not None:
        folder = request.sweep if request.sweep.is_dir() else request.runs_in / request.sweep.stem
        sweep = grids.load(folder)
        places += [path for path in map(sweep.run, sweep.tasks) if (path / "metrics.jsonl").is_file()]
    require(len(places) > 1, "name two or more runs to compare, or a --sweep with two or more that have begun")
    return places


def cost_of(path: Path) -> Cost | None:
    """What a run costs; None where no checkpoint tells."""
    try:
        return cost.cost_of(load_run(path, "latest"))
    except SettingsError:
        return None


def cells(run: Contender, cost: Cost | None) -> tuple[str, ...]:
    """A row of the table of runs."""
    top1, epoch = run.best
    return (
        run.name,
        "-" if cost is None else f"{anatomy.parameters(cost.network):,}",
        str(len(run.history.epochs)),
        "-" if math.isnan(top1) else f"{100 * top1:.2f} % (epoch {epoch})",
        "-" if math.isnan(run.final) else f"{100 * run.final:.2f} %",
        duration(run.seconds),
        "-" if math.isnan(run.images_per_second) else f"{run.images_per_second:,.0f}",
    )


def settings_table(runs: list[Contender]) -> list[tuple[str, ...]]:
    """The settings that differ, a row for each, and a column for each run."""
    names = differing(runs)
    if not names:
        return [("no setting differs",)]
    return [("setting", *(run.name for run in runs))] + [
        (name, *(str(run.settings.get(name)) for run in runs)) for name in names
    ]


def sentence(pair: Difference) -> str:
    """A difference in words."""
    points = f"{pair.points:+.2f} points (95 %: {pair.low:+.2f} to {pair.high:+.2f}; {pair.basis})"
    return f"{pair.one} against {pair.other}: {points}: {pair.verdict}"


def sections(
    runs: list[Contender], costs: list[Cost | None], found: list[Variant], pairs: list[Difference]
) -> list[Section]:
    """The parts of the page."""
    rows = [cells(run, cost) for run, cost in zip(runs, costs, strict=True)]
    heads, *settings = settings_table(runs)
    seeds = [
        (variant.name, len(variant.scores), float(np.mean(variant.scores)), float(np.ptp(variant.scores)))
        for variant in found
    ]
    told = [(p.one, p.other, f"{p.points:+.2f}", f"{p.low:+.2f} to {p.high:+.2f}", p.basis, p.verdict) for p in pairs]
    against = {
        "epoch": [curves.column(run.history.epochs, "epoch") for run in runs],
        "update": [curves.column(run.history.epochs, "update") for run in runs],
        "minutes": [minutes(run) for run in runs],
        "PFLOP": [pflops(run, cost) for run, cost in zip(runs, costs, strict=True)],
    }
    accuracy = "".join(page.chart(f"accuracy-{x.lower()}", overlaid(runs, x, at)) for x, at in against.items())
    return [
        Section("runs", "Runs", page.table(HEADS, rows)),
        Section("settings", "Settings that differ", page.table(heads, settings)),
        Section(
            "differences",
            "Differences",
            page.table(["variant", "seeds", "mean best accuracy", "spread"], seeds)
            + page.table(["variant", "against", "points", "95 % interval", "interval of", "verdict"], told),
        ),
        Section("best", "Best accuracy", page.chart("best-bars", bars(runs))),
        Section("accuracy", "Test accuracy", accuracy),
        Section("loss", "Test loss", page.chart("loss-epoch", losses(runs), log=True)),
        Section("gap", "Train-test gap", page.chart("gap-epoch", gaps(runs))),
        Section("classes", "Classes", classes(runs)),
    ]


def classes(runs: list[Contender]) -> str:
    """How many images of each class every run recognises, of those whose report tells."""
    told = [(run.name, run.findings) for run in runs if run.findings is not None]
    told = [(name, found) for name, found in told if found.classes == told[0][1].classes]
    if not told:
        return page.paragraph("No report of these runs tells: distrib report RUN writes one.")
    heads = ["class", *(name for name, _ in told), *(f"{name} less {told[0][0]}, points" for name, _ in told[1:])]
    rows = [
        [name, *recalls, *(f"{100 * (recall - recalls[0]):+.1f}" for recall in recalls[1:])]
        for name, *recalls in zip(told[0][1].classes, *(found.recalls for _, found in told), strict=True)
    ]
    drawn = page.chart("class-bars", class_bars(told)) if len(rows) <= MOST_CLASSES else ""
    return drawn + page.table(heads, rows)


def class_bars(told: list[tuple[str, Findings]]) -> go.Figure:
    """How many images of each class every run recognises; names and findings of runs with the same classes."""
    names = [html.escape(name) for name in told[0][1].classes]
    chart = curves.figure("recognised", "", barmode="group", height=max(320, 22 * len(names) * len(told)))
    for name, found in told:
        chart.add_trace(go.Bar(y=names, x=found.recalls, name=html.escape(name), orientation="h"))
    return chart.update_xaxes(tickformat=".0%").update_yaxes(type="category", autorange="reversed", automargin=True)


def minutes(run: Contender) -> Column:
    """Minutes of training and evaluation up to the end of each epoch."""
    return np.cumsum(curves.column(run.history.epochs, "seconds")) / 60


def pflops(run: Contender, cost: Cost | None) -> Column:
    """10^15 floating-point operations of training up to the end of each epoch; NaN where no checkpoint tells."""
    updates = curves.column(run.history.epochs, "update").astype(int)
    return np.full(len(updates), math.nan) if cost is None else cost.flops[updates] / 1e15


def together(runs: list[Contender], x: str, y: str, places: list[Column], values: list[Column]) -> go.Figure:
    """A curve of each run."""
    chart = curves.figure(x, y, height=340 + 20 * len(runs))  # on a phone each has a line of the legend
    for run, at, value in zip(runs, places, values, strict=True):
        chart.add_trace(curves.line(at, value, html.escape(run.name), None).update(mode="lines+markers"))
    return chart


def overlaid(runs: list[Contender], x: str, places: list[Column]) -> go.Figure:
    """Test accuracy of each run against something."""
    values = [curves.column(run.history.epochs, "test_top1") for run in runs]
    return together(runs, x, "test accuracy", places, values).update_yaxes(tickformat=".0%")


def losses(runs: list[Contender]) -> go.Figure:
    """Test loss of each run."""
    places = [curves.column(run.history.epochs, "epoch") for run in runs]
    return together(
        runs, "epoch", "test loss", places, [curves.column(run.history.epochs, "test_loss") for run in runs]
    )


def gaps(runs: list[Contender]) -> go.Figure:
    """Training accuracy less test accuracy of each run."""
    places = [curves.column(run.history.epochs, "epoch") for run in runs]
    values = [curves.difference(run.history.epochs) for run in runs]
    return together(runs, "epoch", "train less test accuracy, points", places, values)


def bars(runs: list[Contender]) -> go.Figure:
    """The best accuracy of each run."""
    chart = curves.figure("best test accuracy", "", hovermode="closest", height=100 + 36 * len(runs))
    names, lengths = [html.escape(run.name) for run in runs], [run.best[0] for run in runs]
    bars = go.Bar(y=names, x=curves.gaps_as_none(np.array(lengths)), marker={"color": curves.BLUE}, orientation="h")
    # Names are written along the bars: beside them, long ones would leave no room on a phone.
    chart.add_trace(bars.update(text=names, texttemplate="%{text}: %{x:.2%}", textposition="inside"))
    return chart.update_xaxes(tickformat=".0%").update_yaxes(
        type="category", autorange="reversed", showticklabels=False
    )
