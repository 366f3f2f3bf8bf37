"""What a network makes of the test images, as plotly's figures."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from distrib.insight.report.analysis import Calibration
from distrib.insight.report.curves import BLUE, GRAY, figure


def matrix(confusion: Sequence[Sequence[int]], classes: list[str]) -> go.Figure:
    """A confusion matrix. Its colours are shares of a row, its numbers are images.

    ``confusion`` is (cells, 3): the numbers of a class, of one that it was taken for, and of images.
    """
    names = [html.escape(name) for name in classes]
    counts = np.zeros((len(names), len(names)), np.int64)
    true, taken, images = np.array(confusion).T
    counts[true, taken] = images
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    heat = go.Heatmap(
        z=shares.round(4).tolist(),
        x=names,
        y=names,
        text=counts.tolist(),
        colorscale="Blues",
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate="%{y} taken for %{x}: %{text} images, %{z:.1%}<extra></extra>",
        texttemplate="%{text}" if len(names) <= 20 else None,
    )
    chart = figure("predicted", "true", hovermode="closest", height=560)
    chart.add_trace(heat)
    chart.update_xaxes(type="category", automargin=True)
    chart.update_yaxes(type="category", autorange="reversed", automargin=True)
    return chart


def reliability(found: Calibration) -> go.Figure:
    """How often the network is right, against how sure it is."""
    chart = figure("confidence", "accuracy", hovermode="closest")
    there = found.images > 0
    bars = go.Bar(
        x=found.confidence[there].tolist(),
        y=found.accuracy[there].tolist(),
        customdata=found.images[there].tolist(),
        width=0.8 / len(found.images),
        name="accuracy",
        marker={"color": BLUE},
        hovertemplate="sure by %{x:.1%}, right in %{y:.1%} of %{customdata} images<extra></extra>",
    )
    chart.add_trace(bars)
    chart.add_trace(go.Scatter(x=[0, 1], y=[0, 1], name="perfect", mode="lines", line={"color": GRAY, "dash": "dash"}))
    chart.update_xaxes(range=[0, 1], tickformat=".0%")
    return chart.update_yaxes(range=[0, 1], tickformat=".0%")


def plane(places: NDArray[np.float32], labels: NDArray[np.int64], names: list[str], texts: list[str]) -> go.Figure:
    """A map of features, coloured by class. A point's ``customdata`` is the number of its image on the sheet.

    ``places`` is (images, 2), ``labels`` (images,) the class of each, and ``texts`` what is said of each.
    """
    chart = figure("", "", hovermode="closest", height=560)
    for number, name in enumerate(names):
        rows = np.flatnonzero(labels == number)
        if len(rows):
            x, y = places[rows].round(2).T.tolist()
            said = [html.escape(texts[row]) for row in rows]
            points = go.Scatter(x=x, y=y, mode="markers", name=html.escape(name), customdata=rows.tolist(), text=said)
            chart.add_trace(points.update(marker={"size": 6}, hovertemplate="%{text}<extra></extra>"))
    return chart.update_xaxes(showticklabels=False, zeroline=False).update_yaxes(showticklabels=False, zeroline=False)
