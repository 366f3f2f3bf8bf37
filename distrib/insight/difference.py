"""``distrib diff RUN RUN``: where two runs part."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from distrib import command
from distrib.insight.sameness import first_other_number, first_other_tensor, numbers, recorded
from distrib.insight.summary import aligned
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.opening import FREE
from distrib.settings import SettingsError


@dataclass(frozen=True)
class Request:
    """Name the first update at which the journals of two runs differ, and the first tensor of their checkpoints.

    Exit code: 0 if the runs are the same as far as both go, 1 if they differ, 2 if there is nothing to compare.
    """

    runs: Annotated[tuple[Path, Path], tyro.conf.Positional]
    """Two run folders."""


def main(arguments: list[str]) -> int:
    """Compare as the arguments ask; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib diff")
    try:
        rows, same = compare(*(opened(path) for path in request.runs))
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(aligned(rows)))
    return 0 if same else 1


def opened(path: Path) -> RunFolder:
    """The run folder at a path.

    Raises:
        SettingsError: there is none.
    """
    folder = RunFolder(path)
    if not folder.journal.is_file():
        raise SettingsError(f"{path} is no run folder: it has no {folder.journal.name}")
    return folder


def compare(one: RunFolder, other: RunFolder) -> tuple[list[tuple[str, str]], bool]:
    """What to tell of two runs, and whether they are the same as far as both go.

    Raises:
        SettingsError: they have no update in common.
    """
    records, others = recorded(one), recorded(other)
    both = sorted({*numbers(records)} & {*numbers(others)})
    if not both:
        raise SettingsError(f"{one.path} and {other.path} have no update in common")
    number = first_other_number(records, others, until=both[-1])
    rows = [("settings", differing_settings(one, other) or "the same, in all that bears on the numbers")]
    rows += [("journal", f"first difference: {number}" if number else f"the same up to update {both[-1]}")]
    pairs = common_checkpoints(one, other)
    if not pairs:
        return [*rows, ("checkpoints", "none of the same update in both that is whole")], not number
    for first, second in pairs:
        found = [(group, first_other_tensor(group, first, second)) for group in groups(first, second)]
        if any(text for _, text in found):
            break
    rows += [(group, f"at update {first.update} {text or 'the same'}") for group, text in found]
    return rows, not number and not any(text for _, text in found)


def groups(first: Checkpoint, second: Checkpoint) -> list[str]:
    """What tensors two checkpoints hold: a run without an average keeps none."""
    averaged = any((checkpoint.path / "ema.safetensors").exists() for checkpoint in (first, second))
    return ["model", "optimizer", *(["ema"] if averaged else [])]


def differing_settings(one: RunFolder, other: RunFolder) -> str:
    """Settings that differ and bear on the numbers, as text."""
    first, second = (flat_settings(folder) for folder in (one, other))
    names = [name for name in first if name not in FREE and first[name] != second.get(name)]
    return "; ".join(f"{name} is {first[name]} and {second.get(name)}" for name in names)


def flat_settings(folder: RunFolder) -> dict[str, Any]:
    """The settings of a run, by name."""
    return command.load(folder.settings).flat()


def common_checkpoints(one: RunFolder, other: RunFolder) -> list[tuple[Checkpoint, Checkpoint]]:
    """The checkpoints of the same update that are whole in both runs, oldest first."""
    by_update = {checkpoint.update: checkpoint for checkpoint in checkpoints.every(other.checkpoints)}
    pairs = [(c, by_update[c.update]) for c in checkpoints.every(one.checkpoints) if c.update in by_update]
    return [pair for pair in pairs if all(checkpoint.fault() is None for checkpoint in pair)]
