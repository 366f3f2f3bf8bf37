"""``distrib sweep``: the runs of a grid, as a Slurm job array or one after the other on this machine."""

import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tyro

from distrib.insight import grids
from distrib.insight.grids import Sweep, Task
from distrib.insight.sweep_table import is_done, look, table
from distrib.insight.trials import TRAIN, starter
from distrib.lifecycle.ending import FAILED, FINISHED
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.stopping import STOPPED
from distrib.settings import SettingsError, require

JOB = "slurm/sweep.sh"
ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


@dataclass(frozen=True)
class Request:
    """Train every run of a grid: as a Slurm job array where there is Slurm, else one after the other.

    The same command goes on with what is not finished. `distrib sweep status GRID` tells where the runs are. What
    follows after `--` is for sbatch, such as `-- --gpus-per-node=1 --time=4:00:00`.
    """

    grid: tyro.conf.Positional[Path]
    """YAML file with common, grid and runs: see configs/sweeps/."""
    out: Path = Path("runs")
    """Parent of the sweep's folder, which bears the name of the grid's file."""
    at_once: int | None = None
    """Jobs of the array that may run at a time. None: as many as there is room for."""
    local: bool = False
    """One after the other on this machine, even if there is Slurm."""
    launcher: str | None = None
    """What starts the processes on this machine, such as "torchrun --standalone --nproc-per-node 2". None: one."""

    def __post_init__(self) -> None:
        require(self.at_once is None or self.at_once > 0, "--at-once is at least 1")


@dataclass(frozen=True)
class Status:
    """Print where the runs of a sweep are: done, running, waiting or failed, with their best test accuracy."""

    sweep: tyro.conf.Positional[Path]
    """The grid's file, or the sweep's folder."""
    out: Path = Path("runs")
    """Parent of the sweep's folder."""


def main(arguments: list[str]) -> int:
    """Submit, train or tell. Exit code: 0 if all went well, 1 if a run failed, 75 if stopped, 2 for bad settings."""
    verb, *rest = arguments or ["--help"]
    try:
        if verb == "status":
            return status(rest)
        if verb == "flags":  # asked by the jobs
            return tell_flags(Path(rest[0]), int(rest[1]))
        end = arguments.index("--") if "--" in arguments else len(arguments)
        request = tyro.cli(Request, args=arguments[:end], prog="distrib sweep")
        sweep = grids.read_grid(request.grid, request.out)
        grids.check(sweep)
        local = request.local or request.launcher is not None or shutil.which("sbatch") is None
        options = arguments[end + 1 :]
        require(not (local and options), "what follows after `--` is for sbatch, but the runs are trained here")
        require(local or Path(JOB).is_file(), f"there is no {JOB} here: give this command in the repository's root")
        grids.write(sweep)
        return train_here(sweep, request.launcher) if local else submit(sweep, request.at_once, options)
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def status(arguments: list[str]) -> int:
    """Print the table."""
    request = tyro.cli(Status, args=arguments, prog="distrib sweep status")
    folder = request.sweep if request.sweep.is_dir() else request.out / request.sweep.stem
    print(table(look(grids.load(folder))))
    return 0


def tell_flags(folder: Path, number: int) -> int:
    """Print the flags of a task, from 0, each followed by a NUL, which no flag contains."""
    sweep = grids.load(folder)
    print("".join(f"{flag}\0" for flag in sweep.command_flags(sweep.tasks[number])), end="")
    return 0


def unfinished(sweep: Sweep) -> list[int]:
    """The numbers of the tasks that have more to do."""
    return [number for number, task in enumerate(sweep.tasks) if not is_done(RunFolder(sweep.run(task)))]


def submit(sweep: Sweep, at_once: int | None, options: list[str]) -> int:
    """Hand the unfinished tasks to Slurm as an array, and a job that prints the table when they have ended."""
    left = unfinished(sweep)
    if not left:
        print(table(look(sweep)))
        return FINISHED
    array = ",".join(map(str, left)) + (f"%{at_once}" if at_once else "")
    named = [f"--job-name={sweep.folder.name}", f"--output={sweep.folder}/%x-%a.out"]
    job = sbatch([f"--array={array}", *named, *options, JOB, str(sweep.folder)])
    report = sweep.folder / "status.txt"
    after = [f"--dependency=afterany:{job}", "--kill-on-invalid-dep=yes", "--open-mode=truncate"]
    last = sbatch([*after, f"--job-name={sweep.folder.name}-status", f"--output={report}", JOB, str(sweep.folder)])
    print(f"submitted {len(left)} of {len(sweep.tasks)} runs as job array {job}; job {last} then writes {report}")
    print(f"where they are: distrib sweep status {sweep.folder}")
    return FINISHED


def sbatch(words: list[str]) -> str:
    """Submit a job; its number.

    Raises:
        SettingsError: Slurm refuses it.
    """
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    require(done.returncode == 0, f"Slurm refuses the job: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]


def train_here(sweep: Sweep, launcher: str | None) -> int:
    """Train the unfinished tasks one after the other; the first that is stopped ends the sweep."""
    start, code = [*starter(launcher), str(TRAIN)], FINISHED
    for number in unfinished(sweep):
        task = sweep.tasks[number]
        print(f"\n{task.name} ({number + 1} of {len(sweep.tasks)})", flush=True)
        if (outcome := train(sweep, task, start)) == STOPPED:
            print("stopped; the same command goes on")
            return STOPPED
        if outcome != FINISHED:
            code = FAILED
    print(f"\n{table(look(sweep))}")
    return code


def train(sweep: Sweep, task: Task, start: list[str]) -> int:
    """Train a task to its end; its exit code, or 75 if a signal asked for it to stop."""
    sweep.outcome(task).unlink(missing_ok=True)
    process = subprocess.Popen([*start, *sweep.command_flags(task)], start_new_session=True)  # noqa: S603
    asked = []

    def pass_on(number: int, _frame: object) -> None:
        asked.append(number)
        with suppress(ProcessLookupError):  # launchers pass it on to their workers
            process.send_signal(number)

    # What is to be ignored, as under nohup, stays so.
    heeded = [number for number in ASKED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sweep.outcome(task).write_text(f"{code}\n", encoding="ascii")
    return STOPPED if asked else code
