"""A model of the time that an update of DDP takes, from what it computes and what it sends.

A process computes for ``compute`` seconds, of which the last ``BACKWARD`` share is the backward pass. Gradients are
exchanged in a ring, in buckets, while that goes on, the first as soon as its bucket is full. Each of ``world``
processes sends 2 (world - 1) / world of all bytes, at a share ``efficiency`` of the link's bandwidth, and waits
``latency`` seconds in each of the 2 (world - 1) rounds of every bucket. What sending takes of the processor slows
computing down by a share ``drag`` of the time in which both go on. All wait for the slowest process, whose time is
above the mean by some deviations: the square root of 2 log(world), as of the largest of so many normal numbers.

    exchange = buckets * 2 (world - 1) * latency + 2 (world - 1) / world * bytes / (efficiency * bandwidth)
    step = forward + max(backward + drag * min(backward, exchange), start of the first bucket + exchange)
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKWARD = 2 / 3  # of the computing: twice the multiplications of the forward pass
BUCKET = 25 * 2**20  # bytes of DDP's buckets
PICTURE = Path(__file__).resolve().parents[1] / "docs/pictures/scaling.png"


@dataclass(frozen=True)
class Step:
    """A step as ``loops/ddp.py`` measures it, seconds; ``bytes`` of its gradients in float32, ``half`` sent as bf16."""

    compute: float
    bytes: int
    step: float = math.nan
    exchange: float = math.nan
    half: bool = False

    @property
    def sent(self) -> int:
        """Bytes of gradients as they are sent."""
        return self.bytes // 2 if self.half else self.bytes

    @property
    def buckets(self) -> int:
        """Messages that they are sent in."""
        return 1 + math.ceil(self.bytes / BUCKET)


@dataclass(frozen=True)
class Link:
    """Between processes: bytes per second in each direction."""

    bandwidth: float


@dataclass(frozen=True)
class Model:
    """What is fitted: see above. ``spread`` is the deviation of a process's time, of its mean."""

    efficiency: float
    latency: float
    drag: float
    spread: float = 0.0

    def exchange(self, step: Step, link: Link, world: int) -> float:
        """Seconds that the exchange of all gradients takes alone."""
        rounds = step.buckets * 2 * (world - 1)
        return rounds * self.latency + 2 * (world - 1) / world * step.sent / (self.efficiency * link.bandwidth)

    def step(self, step: Step, link: Link, world: int) -> float:
        """Seconds of an update."""
        slowest = step.compute * (1 + self.spread * math.sqrt(2 * math.log(world)))
        if world == 1:
            return slowest
        forward, backward = slowest * (1 - BACKWARD), slowest * BACKWARD
        exchange = self.exchange(step, link, world)
        first = backward * min(1.0, 1 / step.buckets)
        return forward + max(backward + self.drag * min(backward, exchange), first + exchange)


def fit(measured: list[tuple[int, Step]]) -> Model:
    """The model nearest to steps of two processes, each with the link's megabits per second: by least squares.

    Efficiency and latency come from the exchanges alone, the drag from whole steps.
    """
    # exchange = constant + slope * sent / bandwidth; each row divided by what was measured, so that shares count alike.
    rows = [(1 / step.exchange, step.sent / (megabits * 1e6 / 8) / step.exchange) for megabits, step in measured]
    constant, slope = np.linalg.lstsq(np.array(rows), np.ones(len(rows)))[0].tolist()
    efficiency, latency = 1 / slope, max(constant, 0) / (2 * measured[0][1].buckets)
    candidates = [Model(efficiency, latency, share / 100) for share in range(0, 201, 5)]
    return min(candidates, key=lambda model: misfit(model, measured))


def misfit(model: Model, measured: list[tuple[int, Step]]) -> float:
    """Sum of squares of the relative errors of whole steps."""
    return sum((model.step(s, Link(m * 1e6 / 8), 2) / s.step - 1) ** 2 for m, s in measured)


# What is assumed of GPUs, not measured here: a ResNet-50 on 256 images of 224 pixels for each, in bf16, and links for
# each GPU as sold in 2026. Efficiency as NCCL reaches it on such links, 5 us of latency, 2 % of spread.
GPU = Step(compute=256 / 2500, bytes=4 * 25_557_032)
GPUS = Model(efficiency=0.8, latency=5e-6, drag=0.05, spread=0.02)
LINKS = {"400 Gbit/s": Link(50e9), "100 Gbit/s": Link(12.5e9), "25 Gbit/s": Link(3.125e9), "10 Gbit/s": Link(1.25e9)}
WORLDS = [2**power for power in range(11)]


def efficiencies(link: Link, *, half: bool = False) -> list[float]:
    """Of each number of GPUs, the share of the rate that as many alone would have."""
    step = Step(GPU.compute, GPU.bytes, half=half)
    return [GPU.compute / GPUS.step(step, link, world) for world in WORLDS]


def table() -> str:
    """The model's efficiencies in Markdown."""
    shown = [1, 2, 8, 64, 256, 1024]
    lines = ["| link of each GPU | " + " | ".join(map(str, shown)) + " |", "| --- |" + " --- |" * len(shown)]
    for name, link in LINKS.items():
        for half in (False, True):
            shares = dict(zip(WORLDS, efficiencies(link, half=half), strict=True))
            cells = " | ".join(f"{shares[world]:.0%}" for world in shown)
            lines.append(f"| {name}, {'bf16' if half else 'fp32'} | {cells} |")
    return "\n".join(lines)


def draw(file: Path) -> None:
    """The efficiencies over the number of GPUs, as a PNG file."""
    width, height, left, top, right, bottom = 1200, 640, 90, 60, 200, 70
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(20)

    def place(world: int, share: float) -> tuple[float, float]:
        across = math.log2(world) / (len(WORLDS) - 1)
        return left + across * (width - left - right), top + (1 - share) * (height - top - bottom)

    for share in (0, 0.25, 0.5, 0.75, 1):
        pen.line([place(1, share), place(WORLDS[-1], share)], fill="#dddddd", width=2)
        pen.text((place(1, share)[0] - 12, place(1, share)[1]), f"{share:.0%}", "#333333", font, anchor="rm")
    for world in WORLDS:
        pen.text((place(world, 0)[0], place(world, 0)[1] + 12), str(world), "#333333", font, anchor="mt")
    for (name, link), colour in zip(LINKS.items(), ("#1f77b4", "#2ca02c", "#ff7f0e", "#d62728"), strict=True):
        for half in (False, True):
            points = [place(*point) for point in zip(WORLDS, efficiencies(link, half=half), strict=True)]
            pen.line(points, fill=colour, width=2 if half else 4)
            pen.text((points[-1][0] + 8, points[-1][1]), f"{name}{', bf16' if half else ''}", colour, font, anchor="lm")
    title = "A model, not a measurement: share of perfect scaling, ResNet-50, 256 images for each GPU"
    pen.text((left, 24), title, "#333333", font, anchor="lm")
    pen.text((left, height - 20), "GPUs", "#333333", font, anchor="lm")
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


if __name__ == "__main__":
    print(table())
