"""Grids: several recipes in one file, each of which becomes a run.

A file may hold ``common``, settings of every run; ``grid``, settings with a list of values each, of which every
combination is a run; and ``runs``, a list of settings that go together. Given both, each of the ``runs`` is trained in
every combination. ``config`` among the settings names a recipe to begin with.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrib import command
from distrib.lifecycle.files import write_whole
from distrib.settings import SettingsError, nearest, require

KEYS = ("common", "grid", "runs")
OURS = ("name", "out")
INDEX = "sweep.json"


@dataclass(frozen=True)
class Task:
    """One of the runs: its name among them, and its flags."""

    name: str
    flags: list[str]


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid, in the order of its file, and the folder that theirs are in."""

    folder: Path
    tasks: list[Task]

    def run(self, task: Task) -> Path:
        """The run folder of a task."""
        return self.folder / task.name

    def outcome(self, task: Task) -> Path:
        """A file that holds the exit code of a task's last start, once that has ended."""
        return self.folder / f"{task.name}.exit"

    def command_flags(self, task: Task) -> list[str]:
        """The flags of training a task."""
        return [*task.flags, f"--out={self.folder}", f"--name={task.name}"]


def read_grid(path: Path, out: Path) -> Sweep:
    """The runs that a grid asks for, below ``out``.

    Raises:
        SettingsError: the file is no grid, or asks for what cannot be.
    """
    tasks = [make_task(path, common, own) for common, own in combinations(path, command.read_yaml(path))]
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"in the grid {path}: more than one run is {', '.join(twice)}")
    return Sweep(out / path.stem, tasks)


def combinations(path: Path, content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What each run has in common with all, and what it has of its own."""
    for key in content:
        require(key in KEYS, f"in the grid {path}: unknown key '{key}'{nearest(key, KEYS)}")
    common, grid, runs = content.get("common") or {}, content.get("grid") or {}, content.get("runs") or [{}]
    sound = all(isinstance(part, dict) for part in (common, grid, *runs)) and isinstance(runs, list)
    require(sound, f"in the grid {path}: common and grid hold `key: value` lines, and runs is a list of such")
    listed = all(isinstance(values, list) and values for values in grid.values())
    require(listed, f"in the grid {path}: each setting of grid has a list of values, such as [0.1, 0.2]")
    for run in runs:
        for values in itertools.product(*grid.values()):
            yield common, run | dict(zip(grid, values, strict=True))


def make_task(path: Path, common: dict[str, Any], own: dict[str, Any]) -> Task:
    """The run of some settings of its own besides those of all."""
    settings = common | own
    given = sorted(set(OURS) & settings.keys())
    require(
        not given, f"in the grid {path}: no {' or '.join(given)}: each run is named by what tells it from the others"
    )
    config = settings.pop("config", None)
    recipe = [] if config is None else [f"--config={config}"]
    return Task(",".join(map(label, own.items())) or "run", [*recipe, *command.flags_of(path, settings)])


def label(setting: tuple[str, Any]) -> str:
    """A setting as part of a folder's name."""
    key, value = setting
    if key == "config":
        return Path(str(value)).stem
    told = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+=-]", "-", f"{key}={told}")


def check(sweep: Sweep) -> None:
    """Parse every task's flags, as training will; ends the command with the message if any is impossible."""
    for task in sweep.tasks:
        command.parse(sweep.command_flags(task), prog=f"sweep, {task.name}")


def write(sweep: Sweep) -> None:
    """Write which runs these are, for the jobs that train them.

    Raises:
        SettingsError: the folder holds another sweep.
    """
    index = sweep.folder / INDEX
    if index.exists() and load(sweep.folder) != sweep:
        raise SettingsError(
            f"{sweep.folder} holds a sweep with other runs. Name the grid's file otherwise, or give another --out"
        )
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_whole(index, json.dumps([asdict(task) for task in sweep.tasks], indent=1))


def load(folder: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        SettingsError: there is none.
    """
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return Sweep(folder, [Task(str(task["name"]), [str(flag) for flag in task["flags"]]) for task in content])
    except OSError as error:
        raise SettingsError(f"{folder} is no folder of a sweep: {INDEX}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SettingsError(
            f"{folder / INDEX} is not what `distrib sweep` wrote: remove it, and give the grid again"
        ) from None
