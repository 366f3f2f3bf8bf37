"""Curves of a run as a picture, for pages that show nothing else. Drawn by Pillow, large, and then made smaller."""

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from distrib.lifecycle.journal import Record

WIDTH, HEIGHT = 480, 300  # of a chart, pixels
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 48, 32  # margins around its curves, pixels
FINER = 3  # times as large when drawn
INK, FAINT, COLOURS = "#333333", "#dddddd", ("#1f77b4", "#d62728", "#2ca02c")
KINDS = (("loss", "loss", "{:.3g}"), ("accuracy", "top1", "{:.1%}"))
"""Of the charts: what they show, how its names in an epoch's record end, how a value is written."""

Point = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Chart:
    """Curves over epochs."""

    title: str
    curves: dict[str, list[float]]
    """By name, a value for each epoch; NaN is a gap."""
    epochs: list[int]
    form: str
    """How a value is written beside the axis."""

    def place(self, epoch: float, value: float) -> Point:
        """Where a value stands, in pixels of the chart."""
        low, high = self.range()
        first, last = self.epochs[0], self.epochs[-1]
        across = (epoch - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def range(self) -> Point:
        """The lowest and the highest value, a little apart if they are one."""
        values = [value for curve in self.curves.values() for value in curve if math.isfinite(value)]
        low, high = min(values, default=0.0), max(values, default=1.0)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def stretches(self, values: list[float]) -> list[list[Point]]:
        """Where the points of a curve stand, cut at its gaps."""
        found: list[list[Point]] = [[]]
        for epoch, value in zip(self.epochs, values, strict=True):
            if math.isfinite(value):
                found[-1].append(self.place(epoch, value))
            else:
                found.append([])
        return [stretch for stretch in found if stretch]


def curves(epochs: list[Record]) -> bytes:
    """Loss and accuracy of each epoch, one at least, side by side as a PNG file."""
    numbers = [record["epoch"] for record in epochs]
    charts = [Chart(f"{kind} of each epoch", named(epochs, key), numbers, form) for kind, key, form in KINDS]
    whole = Image.new("RGB", (WIDTH * len(charts), HEIGHT))
    for place, chart in enumerate(charts):
        whole.paste(drawn(chart), (WIDTH * place, 0))
    file = io.BytesIO()
    whole.save(file, "PNG", optimize=True)
    return file.getvalue()


def named(epochs: list[Record], key: str) -> dict[str, list[float]]:
    """The curves that the records have of a quantity."""
    names = {"train": f"train_{key}", "test": f"test_{key}", "test, average of the weights": f"ema_test_{key}"}
    return {
        name: [math.nan if record.get(of) is None else record[of] for record in epochs]
        for name, of in names.items()
        if any(of in record for record in epochs)
    }


def drawn(chart: Chart) -> Image.Image:
    """One chart."""
    large = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), "white")
    pen, font = ImageDraw.Draw(large), ImageFont.load_default(12 * FINER)
    _axes(pen, chart, font)
    x = float(LEFT)
    for colour, (name, values) in zip(COLOURS, chart.curves.items(), strict=False):
        pen.text(_fine((x, 24)), name, fill=colour, font=font)
        x += pen.textlength(name, font=font) / FINER + 16
        for stretch in chart.stretches(values):
            pen.line([_fine(point) for point in stretch], fill=colour, width=2 * FINER, joint="curve")
            pen.circle(_fine(stretch[-1]), 2 * FINER, fill=colour)  # a stretch of one point has no line
    return large.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _axes(pen: ImageDraw.ImageDraw, chart: Chart, font: Font) -> None:
    """The title, three values with a line each, and the first and the last epoch."""
    pen.text(_fine((LEFT, 6)), chart.title, fill=INK, font=font)
    low, high = chart.range()
    ends = chart.epochs[0], chart.epochs[-1]
    for value in (low, (low + high) / 2, high):
        _, y = chart.place(ends[0], value)
        pen.line([_fine((LEFT, y)), _fine((WIDTH - RIGHT, y))], fill=FAINT, width=FINER)
        pen.text(_fine((LEFT - 6, y)), chart.form.format(value), fill=INK, font=font, anchor="rm")
    for epoch in sorted({*ends}):
        x, y = chart.place(epoch, low)
        pen.text(_fine((x, y + 8)), str(epoch), fill=INK, font=font, anchor="mt")


def _fine(point: Point) -> Point:
    return point[0] * FINER, point[1] * FINER
