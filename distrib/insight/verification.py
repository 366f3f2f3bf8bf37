"""``distrib verify CLAIM``: proves what the project promises, on the machines at hand and with the launcher used there.

``restart``: a run that was killed is, bit for bit, the run that was not. The same command trains twice, once
undisturbed and once killed again and again; then all that the two saved is compared, and every loss in their journals.
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import tyro

from distrib import command
from distrib.insight.sameness import Finding, begins, compare, numbers, recorded, report
from distrib.insight.summary import duration
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.journal import Record
from distrib.lifecycle.processes import host
from distrib.settings import SettingsError, nearest, require

USAGE = """usage: distrib verify CLAIM [ARGUMENTS]; `distrib verify CLAIM --help` tells more of each CLAIM:

  restart    a run that was killed is bit for bit the run that was not"""

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
EPOCHS, BATCH, SAVE_EVERY = 3, 96, 4
SMALL = ["--data=synthetic", "--image-size=16", "--test-images=192", "--model=simplecnn", "--width=8", "--lr=0.05"]
# Micro-batches so small that each of many processes still accumulates.
SMALL += [f"--epochs={EPOCHS}", f"--batch-size={BATCH}", "--micro-batch=5", "--clip-norm=1", "--ema-decay=0.99"]

AIMS = ("start-up", "update", "save", "evaluation")
GLANCE = 0.01  # seconds between two looks at a run
PATIENCE = 60.0  # seconds for a launcher to end after the loss of a rank, and for killed processes to be gone


class Unproven(Exception):
    """The killed run did not come to its end, so there is nothing to compare; the message says why."""


@dataclass(frozen=True)
class Restart:
    """Kill a run at random points, go on with the same command, and compare it with one that was not killed.

    What follows after `--` are flags of training. Without them a small network learns synthetic images, with clipping,
    accumulation and an average of the weights; with --config among them, the recipe alone says what is trained.
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
    """Verify the claim that the arguments begin with; return the exit code."""
    claims = {"restart": restart}
    claim, *rest = arguments or ["--help"]
    if claim in ("--help", "-h"):
        print(USAGE)
        return 0
    if claim not in claims:
        print(f"error: '{claim}' cannot be verified{nearest(claim, tuple(claims))}\n\n{USAGE}", file=sys.stderr)
        return 2
    return claims[claim](rest)


def restart(arguments: list[str]) -> int:
    """Kill, go on and compare. Exit code: 0 if all is equal, 1 if not, 2 if not even the undisturbed run succeeds."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    request = tyro.cli(Restart, args=arguments[:end], prog="distrib verify restart")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is not
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: nothing that was started here stays behind
    try:
        words = training(request, arguments[end + 1 :])
        place = workplace(request.dir)
        course = undisturbed(words, place)
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        made = disturbed(words, place, plan(request.seed, request.kills, course), course)
        code = tell(compare(place / "whole", place / "killed"), made, request.kills)
    except (SettingsError, Unproven) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    if code == 0 and request.dir is None:
        shutil.rmtree(place)
    else:
        print(f"Both runs, and what they printed, are in {place}")
    return code


def training(request: Restart, flags: list[str]) -> list[str]:
    """The command of both runs, but for the place and the name of each."""
    given = {flag.partition("=")[0] for flag in flags}
    require(not given & {"--name", "--out"}, "--name and --out are given by us: --dir names the folder of both runs")
    launcher = shlex.split(request.launcher) if request.launcher else [sys.executable]
    require(launcher and shutil.which(launcher[0]), f"--launcher {request.launcher}: there is no such program")
    small = [] if "--config" in given else [*SMALL, f"--train-images={request.updates // EPOCHS * BATCH}"]
    # What changes nothing that is computed: a recipe keeps its meaning.
    free = ["--log-every=1", f"--save-every={SAVE_EVERY}", "--wandb=off"]
    return [*launcher, str(TRAIN), *small, *free, *flags]  # what comes later wins


def workplace(wanted: Path | None) -> Path:
    """The folder of both runs."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="distrib-verify-"))
    free = not any((wanted / name).exists() for name in ("whole", "killed"))
    require(free, f"--dir {wanted} holds runs of an earlier verification: remove them, or name another folder")
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted.resolve()


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


class Launch:
    """A command, and every process that comes of it on this host.

    A mark in their environment tells them from others: torchrun gives each rank a session of its own, so that a process
    group would not do, and a rank whose launcher was killed has no parent that could be asked.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        self._seen, self._mark = set[int](), f"DISTRIB_VERIFY={uuid.uuid4().hex}"
        marked = os.environ | dict([self._mark.split("=")])
        with log.open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603 - the launcher that the user names
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=marked, start_new_session=True
            )

    def lasts(self, seconds: float) -> bool:
        """Whether the command has not ended after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def processes(self) -> set[int]:
        """The pids of those that run; one that is dying has lost its environment."""
        if not Path("/proc/self/environ").exists():  # macOS
            words = ["ps", "-A", "-E", "-ww", "-o", "pid=,command="]
            listing = subprocess.run(words, capture_output=True, text=True, errors="replace", check=True)  # noqa: S603
            return {int(line.split()[0]) for line in listing.stdout.splitlines() if self._mark in line}
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if self._mark.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
        self._seen |= found
        return found

    def kill(self, rank: int | None, folder: RunFolder) -> str:
        """Kill a rank, if it tells its pid and lives here, and let its launcher end the others; or kill all at once."""
        pid = pid_of(rank, folder)
        if pid is None or pid not in self.processes():
            self.close()
            return "group"
        os.kill(pid, signal.SIGKILL)
        return f"rank {rank}{', then all' if self.lasts(PATIENCE) else ''}"

    def close(self) -> None:
        """Kill all and wait until they are gone. Raises Unproven if they do not go."""
        deadline = time.monotonic() + PATIENCE
        while (left := self.processes()) or any(map(remains, self._seen)) or self.process.poll() is None:
            if time.monotonic() > deadline:
                raise Unproven(f"processes {sorted(filter(remains, self._seen))} outlived SIGKILL by {PATIENCE:.0f} s")
            self.process.kill()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.lasts(GLANCE)


def remains(pid: int) -> bool:
    """Whether a thread of a killed process is still there, perhaps holding a file or a GPU (Linux; False elsewhere)."""
    try:
        stats = [stat.read_text(errors="replace") for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return True  # one has just gone: look again
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in stats)


def pid_of(rank: int | None, folder: RunFolder) -> int | None:
    """The pid that a rank on this host tells in its heartbeat."""
    try:
        beat = json.loads((folder.path / "heartbeats" / f"rank-{rank}.json").read_text(encoding="utf-8"))
        return int(beat["pid"]) if beat["host"] == host() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def excerpt(log: Path) -> str:
    """Of an output, the first error and what follows, or else the end: launchers add their own at length."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(("error", "╭"))), -20)
    return "\n".join([*lines[first:][:20], f"(all of it: {log})"])


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
