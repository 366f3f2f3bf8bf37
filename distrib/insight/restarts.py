"""``distrib verify restart``: a run that was killed is, bit for bit, the run that was not.

The same command trains twice, once undisturbed and once killed again and again. Then all that the two saved is
compared, and every loss in their journals.
"""

import contextlib
import random
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distrib import command
from distrib.insight.launches import GLANCE, PATIENCE, Launch, Unproven, excerpt
from distrib.insight.sameness import Finding, begins, compare, numbers, recorded, report
from distrib.insight.summary import duration
from distrib.insight.trials import (
    EPOCHS,
    TRAIN,
    leave_nothing_behind,
    put_away,
    read_request,
    small,
    starter,
    workplace,
)
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.journal import Record
from distrib.settings import SettingsError, require

AIMS = ("start-up", "update", "save", "evaluation")


@dataclass(frozen=True)
class Restart:
    """Kill a run at random points, go on with the same command, and compare it with one that was not killed.

    All other flags, and what follows after `--`, are flags of training. Without them a small network learns synthetic
    images, with clipping, accumulation and an average of the weights; with --config among them, the recipe alone says
    what is trained.
    """

    launcher: str | None = None
    """What starts the processes, such as "torchrun --standalone --nproc-per-node 4". None: this Python, one process."""
    kills: int = 5
    """How often the run is killed (SIGKILL): all its processes on this host, or one rank."""
    updates: int = 60
    """Updates of each run, in three epochs, unless flags of training say otherwise."""
    seed: int = 0
    """Seed of when to kill and what."""
    dir: Path | None = None
    """Folder for both runs, which all hosts share. None: a temporary one, which stays only if the runs differ."""

    def __post_init__(self) -> None:
        require(self.kills > 0, "--kills is at least 1")
        require(self.updates >= 2 * EPOCHS, f"--updates is at least {2 * EPOCHS}")


def main(arguments: list[str]) -> int:
    """Kill, go on and compare. Exit code: 0 if all is equal, 1 if not, 2 if not even the undisturbed run succeeds."""
    leave_nothing_behind()
    try:
        request, flags = read_request(Restart, arguments, "restart")
        words = [*starter(request.launcher), str(TRAIN), *small(flags, request.updates)]
        place = workplace(request.dir, ("whole", "killed"))
        course = undisturbed(words, place)
    except (SettingsError, Unproven, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        made = disturbed(words, place, plan(request.seed, request.kills, course), course)
        code = tell(compare(place / "whole", place / "killed"), made, request.kills)
    except (SettingsError, Unproven) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    return put_away(place, request.dir, code)


@dataclass(frozen=True)
class Course:
    """How the undisturbed run went: what the kills are planned from."""

    world: int
    updates: int
    epoch_ends: tuple[int, ...]  # updates after which it evaluated
    save_every: int  # updates
    batch: int  # images
    startup: float  # seconds besides training
    seconds: float  # in all


def undisturbed(words: list[str], place: Path) -> Course:
    """Train to the end. Raises SettingsError if that fails, with what was printed."""
    print(f"undisturbed: {shlex.join(words)}", flush=True)
    folder, log, started = RunFolder(place / "whole"), place / "whole.log", time.monotonic()
    with contextlib.closing(Launch([*words, f"--out={place}", "--name=whole"], log)) as launch:
        code = launch.process.wait()
    seconds = time.monotonic() - started
    if code:
        raise SettingsError(f"the undisturbed run failed with exit code {code}:\n{excerpt(log)}")
    records = recorded(folder)
    epochs = [record for record in records if record["kind"] == "epoch"]
    settings, updates = command.load(folder.settings), max(numbers(records))
    world = begins(records)[0]["world_size"]
    print(f"{updates} updates by {world} process{'es' * (world > 1)} in {duration(seconds)}\n", flush=True)
    return Course(
        world=world,
        updates=updates,
        epoch_ends=tuple(epoch["update"] for epoch in epochs),
        save_every=settings.lifecycle.save_every,
        batch=settings.optimization.batch_size,
        startup=max(0.0, seconds - sum(epoch["seconds"] for epoch in epochs)),
        seconds=seconds,
    )


@dataclass(frozen=True)
class Kill:
    """When to kill, and what."""

    aim: str
    update: int  # the journal has reached it; of a kill at start-up it says only where in the row of kills that comes
    delay: float  # time after that, as a share of the start-up, or of two updates
    rank: int | None  # None: all processes


def plan(seed: int, kills: int, course: Course) -> list[Kill]:
    """Random kills in the order of their updates, each aim as often as the others."""
    draw = random.Random(seed)
    anywhere = range(1, max(2, course.updates))
    places = {"save": range(course.save_every, course.updates, course.save_every), "evaluation": course.epoch_ends}
    planned = []
    for aim in (draw.sample(AIMS, len(AIMS)) * kills)[:kills]:
        update, delay, rank = draw.choice(places.get(aim) or anywhere), draw.random(), draw.randrange(course.world)
        planned.append(Kill(aim, update, delay, rank if aim != "start-up" and draw.random() < 0.5 else None))
    return sorted(planned, key=lambda kill: kill.update)


def disturbed(words: list[str], place: Path, kills: list[Kill], course: Course) -> int:
    """Start the run until it ends by itself; return how often it was killed. Raises Unproven if it fails or hangs."""
    print("kill  aimed at        killed       after update  went on at update", flush=True)
    what, last = "", 0
    for made, kill in enumerate([*kills, None]):
        began, killed, update = attempt(words, place / f"killed-{made}.log", kill, course)
        if made:
            aim = kills[made - 1].aim + (f" {kills[made - 1].update}" if kills[made - 1].aim != "start-up" else "")
            went_on = began if began is not None else "killed again before" if killed else "was finished"
            print(f"{made:>4}  {aim:<14}  {what:<11}  {last:>12}  {went_on}", flush=True)
        if killed is None:
            return made
        what, last = killed, update
    raise AssertionError


def attempt(words: list[str], log: Path, kill: Kill | None, course: Course) -> tuple[int | None, str | None, int]:
    """Start the run and kill it when it is time. Returns the update it went on at (None if it did not come so far),
    what was killed (None if it ended first), and the last update in the journal when all its processes were gone.
    """
    folder = RunFolder(log.parent / "killed")
    shutil.rmtree(folder.path / "heartbeats", ignore_errors=True)  # those pids may be somebody else's by now
    before = len(begins(recorded(folder)))
    with contextlib.closing(Launch([*words, f"--out={log.parent}", "--name=killed"], log)) as launch:
        goes_on = reached(launch, kill, folder, before, course)
        killed = launch.kill(kill.rank, folder) if kill and goes_on else None
    if killed is None and (code := launch.process.returncode):
        raise Unproven(f"the run failed with exit code {code}, and nobody had killed it:\n{excerpt(log)}")
    records = recorded(folder)
    began = [begin["update"] for begin in begins(records)[before:]]
    return began[0] if began else None, killed, max(numbers(records), default=0)


def reached(launch: "Launch", kill: Kill | None, folder: RunFolder, before: int, course: Course) -> bool:
    """Wait until it is time to kill, or until the run ends; whether it still goes on then."""
    started, limit = time.monotonic(), 10 * course.seconds + PATIENCE
    while launch.lasts(GLANCE):
        passed = time.monotonic() - started
        if kill and (wait := due(kill, recorded(folder), before, passed, course)) is not None:
            return launch.lasts(wait)
        if passed > limit:
            raise Unproven(f"the run hangs: {duration(limit)} after its start it had neither ended nor come so far")
    return False


def due(kill: Kill, records: list[Record], before: int, passed: float, course: Course) -> float | None:
    """In how many seconds to kill a run that was started ``passed`` seconds ago, with ``before`` earlier starts in its
    journal; None if that cannot be told yet.
    """
    began = len(begins(records)) > before
    if kill.aim == "start-up":
        return 0.0 if began or passed >= kill.delay * course.startup else None
    last = next((record for record in reversed(records) if record["kind"] == "update"), None)
    if not began or last is None or last["update"] < kill.update:
        return None
    # The pace of now: the undisturbed run may have had a busier machine.
    speed = last["images_per_second"]
    return kill.delay * 2 * course.batch / speed if speed else 0.0


def tell(findings: list[Finding], made: int, asked: int) -> int:
    """Print what was found, and the verdict; return the exit code."""
    print("\nundisturbed and killed run")
    same = report(findings)
    if not same:
        print("DIFFERENT: the run that was killed is not the run that was not")
    elif made == 0:
        print("NOTHING SHOWN: the run ended before the first kill; give it more --updates")
    else:
        print(f"SAME: killed {made} of {asked} times, the run is bit for bit the one that nothing disturbed")
    return 0 if same and made > 0 else 1
