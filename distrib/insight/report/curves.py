"""The curves of a run, as plotly's figures, from its journal alone."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from distrib.insight.history import Column, History, thin
from distrib.insight.summary import MILDLY_OVERFITTED, OVERFITTED
from distrib.lifecycle.journal import Record

POINTS = 2000  # of a curve, at most
BLUE, ORANGE, GREEN, RED, GRAY = "#4c78a8", "#f58518", "#54a24b", "#e45756", "#8a8a8a"
DECAY = 0.7  # a rate that falls below this share of the one before has been decayed at once


def figure(x: str, y: str, **layout: Any) -> go.Figure:
    """An empty chart with titles on its axes. Its colours are the page's."""
    return go.Figure(
        layout={
            "template": "none",
            "xaxis": {"title": x},
            "yaxis": {"title": y},
            "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hovermode": "x unified",
            **layout,
        }
    )


def line(x: Column, y: Column, name: str, color: str | None, **more: Any) -> go.Scatter:
    """A curve, thinned so that its extremes and gaps stay; without a colour it takes the next of plotly's."""
    kept = thin(y, POINTS)
    return go.Scatter(
        x=x[kept].tolist(), y=gaps_as_none(y[kept]), name=name, line={"color": color}, mode="lines", **more
    )


def gaps_as_none(values: Column) -> list[float | None]:
    """Plotly takes None for a gap; JSON knows no NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def column(records: list[Record], name: str) -> Column:
    """A number of every record, NaN where it has none."""
    return np.array([np.nan if record.get(name) is None else record[name] for record in records], np.float64)


def resumed_at(history: History) -> list[int]:
    """The updates at which the run went on after an interruption."""
    return [event["update"] for event in history.events if event["event"] == "resume"]


def by_epoch(history: History, names: Iterable[tuple[str, str, str]], y: str) -> go.Figure:
    """Curves over epochs: (record's name, title, colour) of each. The best epoch and restarts are marked."""
    chart = figure("epoch", y)
    epochs = column(history.epochs, "epoch")
    for name, title, color in names:
        values = column(history.epochs, name)
        if not np.isnan(values).all():
            chart.add_trace(line(epochs, values, title, color).update(mode="lines+markers", marker={"size": 4}))
    top1 = column(history.epochs, "test_top1")
    if not np.isnan(top1).all():
        best = int(np.nanargmax(top1))
        chart.add_vline(
            epochs[best],
            line={"color": GREEN, "dash": "dot"},
            annotation_text=f"best: {epochs[best]:.0f} ",
            annotation_position="top left",
        )
    ends = column(history.epochs, "update")
    for update in resumed_at(history):
        if len(ends):
            place = float(np.interp(update, [0, *ends], [0, *epochs]))
            chart.add_vline(
                place,
                line={"color": GRAY, "dash": "dash"},
                annotation_text="resumed ",
                annotation_position="bottom left",
            )
    return chart


def loss(history: History) -> go.Figure:
    """Loss of each epoch."""
    names = [("train_loss", "train", BLUE), ("test_loss", "test", ORANGE), ("ema_test_loss", "test, average", GREEN)]
    return by_epoch(history, names, "loss")


def accuracy(history: History) -> go.Figure:
    """Accuracy of each epoch."""
    names = [("train_top1", "train", BLUE), ("test_top1", "test", ORANGE), ("test_top5", "test, best five", GRAY)]
    chart = by_epoch(history, [*names, ("ema_test_top1", "test, average of the weights", GREEN)], "accuracy")
    return chart.update_yaxes(tickformat=".0%")


def gap(history: History) -> go.Figure:
    """Training accuracy less test accuracy, with the lines of over-fitting."""
    chart = figure("epoch", "train less test accuracy, points")
    points = difference(history.epochs)
    chart.add_trace(line(column(history.epochs, "epoch"), points, "gap", BLUE).update(mode="lines+markers"))
    for height, text in ((MILDLY_OVERFITTED, "mild over-fitting"), (OVERFITTED, "over-fitting")):
        chart.add_hline(height, line={"color": RED, "dash": "dot"}, annotation_text=f"{text}: {height:g}")
    return chart


def difference(epochs: list[Record]) -> Column:
    """(epochs,): training accuracy less test accuracy, points."""
    return 100 * (column(epochs, "train_top1") - column(epochs, "test_top1"))


def rate(history: History) -> go.Figure:
    """Learning rate and momentum of every update; where the rate was cut at once is marked."""
    updates = history.updates
    chart = figure("update", "learning rate", yaxis2={"title": "momentum", "overlaying": "y", "side": "right"})
    chart.update_layout(margin={"r": 60})
    chart.add_trace(line(updates["update"], updates["lr"], "learning rate", BLUE))
    chart.add_trace(line(updates["update"], updates["momentum"], "momentum", ORANGE, yaxis="y2"))
    for place in decays(updates["lr"])[:20]:
        chart.add_vline(float(updates["update"][place]), line={"color": RED, "dash": "dot"})
    return chart


def decays(lr: Column) -> list[int]:
    """The places at which the rate was cut at once, as a step schedule does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.flatnonzero(lr[1:] < DECAY * lr[:-1]) + 1
    # A smooth schedule that ends at 0 falls as fast in its last updates.
    steady = [place for place in places.tolist() if place >= 2 and lr[place - 2] * DECAY <= lr[place - 1]]
    return [place for place in steady if place + 1 >= len(lr) or lr[place + 1] >= DECAY * lr[place]]


def update_loss(history: History) -> go.Figure:
    """Loss of every update."""
    chart = figure("update", "training loss")
    chart.add_trace(line(history.updates["update"], history.updates["loss"], "loss", BLUE))
    return chart


def gradients(history: History, clip_norm: float | None) -> go.Figure:
    """Norm of the gradient of every update, before it was clipped."""
    chart = figure("update", "gradient norm")
    chart.add_trace(line(history.updates["update"], history.updates["grad_norm"], "gradient norm", BLUE))
    if clip_norm is not None:
        chart.add_hline(clip_norm, line={"color": RED, "dash": "dot"}, annotation_text=f"clipped to {clip_norm:g}")
    return chart


def clipped_share(history: History, clip_norm: float | None) -> float | None:
    """The share of updates whose gradient was clipped by norm, of 1; None where it never could be."""
    norms = history.updates["grad_norm"]
    known = norms[~np.isnan(norms)]
    return float((known > clip_norm).mean()) if clip_norm is not None and len(known) else None


def speed(history: History) -> go.Figure:
    """Images a second, and the share of the time that training waited for data."""
    updates = history.updates
    chart = figure("update", "images/s", yaxis2={"title": "waiting for data", "overlaying": "y", "side": "right"})
    chart.update_layout(
        margin={"r": 60},
        yaxis2_tickformat=".2~p",
        yaxis2_automargin=True,
        yaxis2_rangemode="tozero",
        yaxis_rangemode="tozero",
    )
    chart.add_trace(line(updates["update"], updates["images_per_second"], "images/s", BLUE))
    chart.add_trace(line(updates["update"], updates["data_wait_share"], "waiting for data", ORANGE, yaxis="y2"))
    return chart


def memory(history: History) -> go.Figure:
    """What rank 0 held of its device's memory."""
    chart = figure("update", "memory, GiB")
    chart.add_trace(line(history.updates["update"], history.updates["memory"] / 2**30, "memory of rank 0", BLUE))
    return chart.update_yaxes(rangemode="tozero")
