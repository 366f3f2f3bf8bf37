"""What checkpoints a run has: ``distrib checkpoints RUN``.

Nothing here moves, removes or mends anything. A run may be writing and pruning while it is looked at.
"""

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro

from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.folder import RunFolder
from distrib.settings import SettingsError, require

PRUNING = 0.5  # seconds after which what looked damaged is looked at again: it may have been on its way out
LEFTOVERS = {
    "damaged": "set aside as damaged",
    ".partial": "unfinished: being written, or interrupted and removed at the next start",
    ".before": "replaced by a save of the same update, or brought back at the next start",
}
"""What else may lie beside the checkpoints, by what precedes the name of one."""


@dataclass(frozen=True)
class Request:
    """List a run's checkpoints, oldest first. Exit code 1 if one that it could go on from is damaged."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    verify: bool = False
    """Hash every file again, instead of a quick look at whether all are there and as long as they should be."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass(frozen=True)
class Row:
    """A folder among the checkpoints."""

    name: str
    kind: str
    """checkpoint, damaged, partial or before."""
    update: int | None
    epoch: int | None
    test_top1: float | None
    """Test accuracy of its weights, of 1; None if they were not evaluated."""
    bytes: int
    """Size of its files."""
    hashed: bool
    """Whether every file was hashed, or given a quick look."""
    fault: str | None
    best: bool = False
    latest: bool = False


def main(arguments: list[str]) -> int:
    """List the checkpoints that the arguments ask for; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib checkpoints")
    folder = RunFolder(request.run)
    try:
        require(folder.settings.is_file(), f"{request.run} is no run folder: it holds no settings.yaml")
        rows = look(folder.checkpoints, hashes=request.verify)
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if request.json:
        for row in rows:
            print(json.dumps(asdict(row)))
    else:
        show(rows, folder.path, hashes=request.verify)
    # What was set aside, or never finished, is nothing that the run goes on from.
    return 1 if any(row.fault for row in rows if row.kind == "checkpoint") else 0


def look(folder: Path, *, hashes: bool) -> list[Row]:
    """What lies in a folder of checkpoints: these, oldest first, then whatever else is there."""
    rows = [row for checkpoint in checkpoints.every(folder) if (row := examine(checkpoint, hashes=hashes))]
    if any(row.fault for row in rows):
        time.sleep(PRUNING)
        again = (examine(Checkpoint(folder / row.name), hashes=hashes) if row.fault else row for row in rows)
        rows = [row for row in again if row]
    sound = [row for row in rows if row.fault is None]
    scored = [row for row in sound if row.test_top1 is not None]
    best = max(scored, key=lambda row: row.test_top1 or 0.0, default=None)  # the earlier one of equals
    latest = sound[-1] if sound else None
    marked = [replace(row, best=row is best, latest=row is latest) for row in rows]
    others = sorted(folder.iterdir()) if folder.is_dir() else []
    return marked + [row for path in others if (row := leftover(path, hashes=hashes))]


def examine(checkpoint: Checkpoint, *, hashes: bool, kind: str = "checkpoint") -> Row | None:
    """Look at a checkpoint; None if it has gone meanwhile."""
    fault = checkpoint.fault(hashes=hashes)
    number = checkpoint.path.name.rpartition("-")[2]
    epoch, score, size = epoch_of(checkpoint), checkpoint.score(), size_of(checkpoint.path)
    if not checkpoint.path.exists():
        return None
    return Row(
        name=checkpoint.path.name,
        kind=kind,
        update=int(number) if number.isdecimal() else None,
        epoch=epoch,
        test_top1=score,
        bytes=size,
        hashed=hashes,
        fault=fault,
    )


def leftover(path: Path, *, hashes: bool) -> Row | None:
    """Look at a folder that is no checkpoint; None if it is one, is none of ours, or has gone."""
    before, _, name = path.name.partition(f"-{checkpoints.PREFIX}")
    if before not in LEFTOVERS or not name:
        return None
    return examine(Checkpoint(path), hashes=hashes, kind=before.removeprefix("."))


def epoch_of(checkpoint: Checkpoint) -> int | None:
    """Epochs that it had finished, if that can be read."""
    try:
        return int(checkpoint.state["epoch"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, as far as they are still there."""
    total = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total


def show(rows: list[Row], folder: Path, *, hashes: bool) -> None:
    """Print the table."""
    if not rows:
        print(f"{folder} has no checkpoint yet")
        return
    looked = "every file hashed" if hashes else "a quick look, without hashes (--verify)"
    heads = ("checkpoint", "update", "epoch", "test accuracy", "size", looked)
    lines = [heads, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads) - 1)]
    for name, *figures, state in lines:
        right = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *right, state]))


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text."""
    accuracy = None if row.test_top1 is None else f"{100 * row.test_top1:.2f} %"
    figures = ["-" if figure is None else str(figure) for figure in (row.update, row.epoch, accuracy)]
    sound = "verified" if row.hashed else "whole"
    told = (row.fault or sound) if row.kind == "checkpoint" else LEFTOVERS[row.name.partition("-")[0]]
    if row.kind == "damaged" and row.fault:
        told += f": {row.fault}"
    marks = [name for name in ("best", "latest") if getattr(row, name)]
    return (row.name, *figures, human(row.bytes), ", ".join([told, *marks]))


def human(size: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
