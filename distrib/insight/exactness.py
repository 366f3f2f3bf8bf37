"""``distrib verify exact``: an ``--exact`` run is bit for bit the same on any number of processes.

The same command trains once on each number of processes, and then through changes of that number: killed at random
updates, it goes on on another. Each time everything that an update changes is compared with the first run's.
"""

import contextlib
import hashlib
import random
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distrib.insight.launches import GLANCE, Launch, Unproven, excerpt
from distrib.insight.sameness import begins, first_other_number, first_other_tensor, numbers, recorded
from distrib.insight.trials import (
    SHOWN,
    TRAIN,
    check_shares,
    check_worlds,
    leave_nothing_behind,
    put_away,
    read_request,
    small,
    starter,
    workplace,
)
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint, Tensors
from distrib.lifecycle.folder import RunFolder
from distrib.settings import SettingsError, require

LIMIT = 3600.0  # seconds that a run may take


@dataclass(frozen=True)
class Exact:
    """Train the same --exact run on several numbers of processes, and through changes of that number; compare all.

    All other flags, and what follows after `--`, are flags of training. Without them a small network learns synthetic
    images, with clipping, accumulation and an average of the weights; with --config among them, the recipe alone says
    what is trained.
    """

    launcher: str | None = None
    """What starts the processes, with {} for their number, such as "srun --ntasks {}". None: torchrun on this host."""
    worlds: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of processes; they divide --virtual-ranks (8 unless given)."""
    changes: int = 2
    """Runs that go through all of them in random order, killed (SIGKILL) at random updates in between."""
    updates: int = 30
    """Updates of each run, in three epochs, unless flags of training say otherwise."""
    seed: int = 0
    """Seed of when to kill, and of the order of the numbers; that of training goes after `--`."""
    dir: Path | None = None
    """Folder for the runs, which all hosts share. None: a temporary one, which stays only if they differ."""

    def __post_init__(self) -> None:
        check_worlds(self.worlds)
        require(self.changes >= 0, "--changes is 0 or more")
        require(self.updates >= 6, "--updates is at least 6")


@dataclass(frozen=True)
class Row:
    """A run: on which numbers of processes, in turn, and after which updates each but the last is killed."""

    name: str
    worlds: tuple[int, ...]
    kills: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As a person would say it."""
        told = [f"{world}, killed at {kill}" for world, kill in zip(self.worlds, self.kills, strict=False)]
        return " > ".join([*told, str(self.worlds[-1])])


def main(arguments: list[str]) -> int:
    """Train and compare. Exit code: 0 if all is equal, 1 if not, 2 if not even the first run succeeds."""
    leave_nothing_behind()
    try:
        request, flags = read_request(Exact, arguments, "exact")
        flags = ["--exact", *small(flags, request.updates)]
        check_shares(flags, request.worlds)
        place = workplace(request.dir, (f"run-{n}" for n in range(1, len(request.worlds) + request.changes + 1)))
        first = Row("run-1", request.worlds[:1])
        print(f"training {shlex.join(flags)}\n", flush=True)
        try:
            train(first, request.launcher, flags, place)
        except Unproven as error:
            raise SettingsError(str(error)) from None
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    updates, same = max(numbers(recorded(RunFolder(place / first.name)))), True
    rows = [first, *plan(request, updates)]
    width = max(len(str(row)) for row in rows)
    columns = f"{'weights':<{SHOWN}}  {'optimizer':<{SHOWN}}  {'statistics':<{SHOWN}}"
    print(f"{'processes':<{width}}  updates  {columns}  verdict", flush=True)
    try:
        for row in rows:
            if row is not first:
                train(row, request.launcher, flags, place)
            verdict = compare(place / first.name, place / row.name)
            same = same and verdict is None
            told = "  ".join(digest[:SHOWN] for digest in digests(newest(place / row.name)))
            last = max(numbers(recorded(RunFolder(place / row.name))))
            print(f"{row!s:<{width}}  {last:>7}  {told}  {verdict or 'same'}", flush=True)
    except (SettingsError, Unproven, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        same = False
    count = ", ".join(map(str, request.worlds))
    print(f"\nSAME: {len(rows)} runs on {count} processes, bit for bit" if same else "\nDIFFERENT, or not shown")
    return put_away(place, request.dir, 0 if same else 1)


def plan(request: Exact, updates: int) -> Iterator[Row]:
    """The rows after the first: the other numbers of processes, and then the changes."""
    draw = random.Random(request.seed)
    moments = range(1, max(2, updates - updates // 6))  # not so late that the run ends first
    for number, world in enumerate(request.worlds[1:], 2):
        yield Row(f"run-{number}", (world,))
    for number in range(request.changes):
        kills = sorted(draw.sample(moments, min(len(request.worlds) - 1, len(moments))))
        order = draw.sample(request.worlds, len(kills) + 1)
        yield Row(f"run-{len(request.worlds) + 1 + number}", tuple(order), tuple(kills))


def train(row: Row, launcher: str | None, flags: list[str], place: Path) -> None:
    """Train a row's run to its end.

    Raises:
        Unproven: it fails, hangs, or is not on as many processes as asked for.
        SettingsError: the launcher cannot start them.
    """
    folder = RunFolder(place / row.name)
    for leg, world in enumerate(row.worlds):
        log = place / f"{row.name}-{leg}.log"
        words = [*starter(launcher, world), str(TRAIN), *flags, f"--out={place}", f"--name={row.name}"]
        with contextlib.closing(Launch(words, log)) as launch:
            killed = reached(launch, folder, leg, row.kills[leg] if leg < len(row.kills) else None)
        if launch.process.returncode and not killed:
            raise Unproven(f"the run on {row} processes failed with {launch.process.returncode}:\n{excerpt(log)}")
    sizes = tuple(begin["world_size"] for begin in begins(recorded(folder)))
    if sizes != row.worlds:
        raise Unproven(f"{row} processes were asked for, but the run says it was on {' > '.join(map(str, sizes))}")


def reached(launch: Launch, folder: RunFolder, leg: int, kill: int | None) -> bool:
    """Wait until the run's ``leg``-th start (from 0) comes to update ``kill``, or ends; whether it came so far."""
    end = time.monotonic() + LIMIT
    while launch.lasts(GLANCE):
        if kill is not None:
            records = recorded(folder)
            if len(begins(records)) > leg and max(numbers(records), default=0) >= kill:
                return True
        if time.monotonic() > end:
            raise Unproven(f"the run hangs: in {LIMIT / 60:.0f} minutes it has neither ended nor come so far")
    return False


def compare(first: Path, second: Path) -> str | None:
    """What differs first between two runs' numbers and saved tensors; None if nothing does."""
    records, others = (recorded(RunFolder(path)) for path in (first, second))
    one, other = newest(first), newest(second)
    if one.update != other.update:
        return f"DIFFERENT: ends at update {other.update}, not {one.update}"
    number = first_other_number(records, others)
    found = [f"DIFFERENT at {number}"] if number else []
    for group in ("model", "optimizer", "ema"):  # the statistics of each process have another shape for each number
        tensor = first_other_tensor(group, one, other)
        found += [f"{group}: {tensor}"] if tensor else []
    return "; ".join(found) or None


def newest(run: Path) -> Checkpoint:
    """The newest checkpoint of a run."""
    found = checkpoints.every(RunFolder(run).checkpoints)
    if not found:
        raise Unproven(f"the run {run} has no checkpoint")
    return found[-1]


def digests(checkpoint: Checkpoint) -> tuple[str, str, str]:
    """SHA-256 of weights, optimizer and running statistics, those of the average among them."""
    slots = checkpoint.tensors("optimizer")
    trained = {name.rpartition("/")[0] for name in slots}
    networks = {
        f"{group}/{name}": (name in trained, tensor)
        for group in ("model", "ema")
        for name, tensor in checkpoint.tensors(group).items()
    }
    weights = {name: tensor for name, (is_weight, tensor) in networks.items() if is_weight}
    statistics = {name: tensor for name, (is_weight, tensor) in networks.items() if not is_weight}
    return digest(weights), digest(slots), digest(statistics)


def digest(tensors: Tensors) -> str:
    """SHA-256 of the names and bytes of tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(checkpoints.bits(tensor).tobytes())
    return found.hexdigest()
