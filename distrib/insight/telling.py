"""What a person is told when a run starts and when it ends."""

import shlex

import numpy as np

from distrib.insight.console import harmonic_mean
from distrib.insight.summary import aligned, spent, summarize
from distrib.learning.engine import Trainer
from distrib.lifecycle.environment import device_name
from distrib.lifecycle.numerics import inexact_since
from distrib.zoo.anatomy import parameters


def header(trainer: Trainer, wandb: str) -> list[tuple[str, str]]:
    """The facts of a run that is about to start, as names and texts."""
    settings, processes, feed = trainer.settings, trainer.processes, trainer.feed
    plan, size = feed.plan, feed.preprocessing.size
    exact = settings.compute.exact
    micro = f" in {plan.micro_batches} micro-batches" if plan.micro_batches > 1 else ""
    count, classes = f"{feed.images:,} training and {feed.test.images:,} test", len(feed.preprocessing.classes)
    planned = (
        f"{settings.optimization.epochs} epochs of {plan.updates_per_epoch:,} updates, {trainer.rates.total:,} in all"
    )
    learning = f"{settings.optimization.optimizer}, {settings.schedule.schedule}, lr {settings.optimization.lr:g}"
    return [
        ("model", f"{settings.model.model}, {parameters(trainer.state.network):,} parameters"),
        ("data", f"{feed.data.name}: {count} images of {size}x{size} pixels, {classes} classes"),
        ("device", f"{processes.device} ({device_name(processes.device)})"),
        ("processes", f"{processes.size}{virtual(trainer)}"),
        ("precision", processes.precision),
        ("batch", f"{plan.batch_size} images: {plan.share} for each {'virtual rank' * exact or 'process'}{micro}"),
        ("plan", f"{planned}; {learning}"),
        ("W&B", wandb),
        ("run folder", str(trainer.folder.path)),
    ]


def virtual(trainer: Trainer) -> str:
    """What the processes stand for, if the run is exact."""
    if not trainer.settings.compute.exact:
        return ""
    since = inexact_since(trainer.snapshots.facts["numerics"])
    kept = "exact" if since is None else f"not exact since update {since}" if since else "not exact"
    return f", as {trainer.feed.plan.shares} virtual ranks: {kept}"


def closing_text(trainer: Trainer, *, failed: bool = False) -> str:
    """What the run reached, from its journal, and the commands that go on from here; of a failed run only these."""
    if failed:
        return "\n" + "\n".join(aligned(commands(trainer, failed=True)))
    from distrib.insight.history import load_history  # noqa: PLC0415 - pyarrow, which no start should wait for

    history = load_history(trainer.folder.journal)
    speeds = history.updates["images_per_second"]
    speeds = speeds[~np.isnan(speeds)]
    mean = harmonic_mean(speeds.tolist()) if len(speeds) else 0.0
    seconds = spent(history.events)
    return "\n" + summarize(history.epochs, seconds=seconds, images_per_second=mean, commands=commands(trainer))


def commands(trainer: Trainer, *, failed: bool = False) -> list[tuple[str, str]]:
    """What to type next: purposes and commands."""
    folder, world = trainer.folder, trainer.processes.size
    path = shlex.quote(str(folder.path))
    if trainer.state.progress.finished and not failed:
        return [
            ("evaluate", f"python -m distrib evaluate {path}"),
            ("predict", f"python -m distrib predict {path} IMAGE ..."),
        ]
    flags = f"--config {shlex.quote(str(folder.settings))} --name {shlex.quote(folder.name)}"
    if world == 1:
        return [("resume", f"python distrib/train.py {flags}")]
    if world > trainer.processes.local_size:
        return [(f"resume, started as before on {world} processes", f"distrib/train.py {flags}")]
    if trainer.processes.device.type == "cpu":
        return [("resume", f"launch/cpu.sh {world} {flags}")]
    return [("resume", f"torchrun --standalone --nproc-per-node {world} distrib/train.py {flags}")]
