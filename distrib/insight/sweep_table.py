"""``distrib sweep status``: where the runs of a sweep are, from their folders alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distrib.insight.grids import Sweep, Task
from distrib.insight.summary import columns
from distrib.lifecycle import checkpoints, journal
from distrib.lifecycle.ending import FINISHED
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import read_beat
from distrib.lifecycle.journal import Record
from distrib.lifecycle.stopping import STOPPED
from distrib.settings import SettingsError

SILENCE = 60.0  # seconds without a heartbeat after which a run is not running
State = Literal["done", "running", "waiting", "failed"]


@dataclass(frozen=True)
class Standing:
    """Where a task is."""

    task: Task
    state: State
    """waiting: not begun, or stopped with more to do. failed: it ended with an error, and nobody has begun it again."""
    epoch: int
    best_top1: float | None
    """The best test accuracy so far, of 1."""
    best_epoch: int | None
    seconds: float
    """Of training and evaluation, in the epochs that are finished."""
    note: str


def look(sweep: Sweep) -> list[Standing]:
    """Where each task of a sweep is."""
    return [standing(sweep, task) for task in sweep.tasks]


def standing(sweep: Sweep, task: Task) -> Standing:
    """Where a task is."""
    folder = RunFolder(sweep.run(task))
    try:
        told = journal.read(folder.journal) if folder.journal.exists() else ()
        records, note = [record for record in told if record["kind"] != "update"], ""
    except (SettingsError, OSError) as error:
        records, note = [], str(error)
    epochs = [record for record in records if record["kind"] == "epoch"]
    best = max(epochs, key=lambda record: record["test_top1"] or 0.0, default=None)
    state, why = state_of(sweep, task, folder, records)
    return Standing(
        task=task,
        state=state,
        epoch=epochs[-1]["epoch"] if epochs else 0,
        best_top1=best["test_top1"] if best else None,
        best_epoch=best["epoch"] if best else None,
        seconds=sum(record["seconds"] for record in epochs),
        note=why or note,
    )


def state_of(sweep: Sweep, task: Task, folder: RunFolder, records: list[Record]) -> tuple[State, str]:
    """The state of a run, and what there is to say about it."""
    if is_done(folder):
        return "done", ""
    if lives(folder):
        return "running", ""
    code = exit_code(sweep.outcome(task))
    last = next((record for record in reversed(records) if record.get("event") in journal.HISTORY), None)
    if code is None and last is not None and last["event"] in ("failed", "diverged"):
        code = last.get("exit_code", 1)
    if code not in (None, FINISHED, STOPPED):
        return "failed", f"exit code {code}"
    return "waiting", "" if last is None else f"goes on from epoch {last.get('epoch', 0)}"


def is_done(folder: RunFolder) -> bool:
    """Whether a run is finished."""
    found = checkpoints.every(folder.checkpoints)
    try:
        return bool(found) and bool(found[-1].state["finished"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def lives(folder: RunFolder) -> bool:
    """Whether a rank of a run has given a sign of life a moment ago."""
    beats = [read_beat(path) for path in folder.heartbeats.glob("rank-*.json")]
    return any(beat and beat.left is None and time.time() - beat.time < SILENCE for beat in beats)


def exit_code(path: Path) -> int | None:
    """What a file of an outcome says, if there is one."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def table(found: list[Standing]) -> str:
    """The standings as text, and a line that counts them."""
    heads = ("run", "state", "epoch", "best test accuracy", "minutes", "")
    told = columns([heads, *(cells(one) for one in found)])
    states: tuple[State, ...] = ("done", "running", "waiting", "failed")
    counts = ", ".join(f"{sum(one.state == state for one in found)} {state}" for state in states)
    best = max((one for one in found if one.best_top1 is not None), key=lambda one: one.best_top1 or 0.0, default=None)
    leader = "" if best is None else f"; best so far: {best.task.name}"
    return "\n".join([*told, "", f"{len(found)} runs: {counts}{leader}"])


def cells(one: Standing) -> tuple[str, ...]:
    """A row of the table."""
    best = "-" if one.best_top1 is None else f"{100 * one.best_top1:.2f} % (epoch {one.best_epoch})"
    return one.task.name, one.state, str(one.epoch), best, f"{one.seconds / 60:.1f}", one.note
