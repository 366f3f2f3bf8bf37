"""``distrib verify order``: any number of processes sees the same images, varied in the same way, in every update.

Each number of processes reads its images through the feed of training, into the very tensors that it would learn from,
and hashes them one by one; then all that was seen is compared, update by update.
"""

import contextlib
import hashlib
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from distrib.insight.launches import Launch, Unproven, excerpt
from distrib.insight.trials import (
    EPOCHS,
    SHOWN,
    VERBS,
    check_shares,
    check_worlds,
    leave_nothing_behind,
    put_away,
    read_request,
    small,
    starter,
    workplace,
)
from distrib.settings import SettingsError, require

Seen = list[tuple[int, int, str]]
"""(update, index of the image, SHA-256 of its pixels and label), in the order of shares."""


@dataclass(frozen=True)
class Order:
    """Read the images of the first updates of two epochs on several numbers of processes, and compare what each saw.

    All other flags, and what follows after `--`, are flags of training. Without them these are synthetic images; with
    --config among them, the recipe alone says which.
    """

    launcher: str | None = None
    """What starts the processes, with {} for their number, such as "srun --ntasks {}". None: torchrun on this host."""
    worlds: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes; they divide the batch."""
    updates: int = 30
    """Updates of each epoch that are read, at most."""
    dir: Path | None = None
    """Folder for what was seen, which all hosts share. None: a temporary one, which stays only if it differs."""

    def __post_init__(self) -> None:
        check_worlds(self.worlds)
        require(self.updates > 0, "--updates is at least 1")


def main(arguments: list[str]) -> int:
    """Read and compare. Exit code: 0 if all is equal, 1 if not, 2 if images cannot be read."""
    leave_nothing_behind()
    first: Seen = []
    same = True
    try:
        request, flags = read_request(Order, arguments, "order")
        flags = small(flags, EPOCHS * request.updates)
        check_shares(flags, request.worlds)
        place = workplace(request.dir, (f"{world}.json" for world in request.worlds))
        print(f"reading with {shlex.join(flags)}\n\nprocesses  updates  images  SHA-256       verdict", flush=True)
        for world in request.worlds:
            seen = read(world, request, flags, place)
            verdict = compare(first or seen, seen)
            same, first = same and verdict is None, first or seen
            updates = len({update for update, _, _ in seen})
            told = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:SHOWN]
            print(f"{world:>9}  {updates:>7}  {len(seen):>6}  {told}  {verdict or 'same'}", flush=True)
    except (SettingsError, Unproven, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\nSAME: every update has the same images, varied in the same way" if same else "\nDIFFERENT")
    return put_away(place, request.dir, 0 if same else 1)


def read(world: int, request: Order, flags: list[str], place: Path) -> Seen:
    """What so many processes see.

    Raises:
        SettingsError: they cannot be started, or cannot read.
    """
    log, file = place / f"{world}.log", place / f"{world}.json"
    ours = [str(VERBS), "verify", "seen", str(file), str(request.updates)]
    with contextlib.closing(Launch([*starter(request.launcher, world), *ours, *flags], log)) as launch:
        code = launch.process.wait()
    if code:
        raise SettingsError(f"{world} processes failed with exit code {code}:\n{excerpt(log)}")
    found = json.loads(file.read_text(encoding="utf-8"))
    require(found["world"] == world, f"{world} processes were asked for, but {found['world']} came together")
    return [tuple(row) for row in found["seen"]]


def compare(first: Seen, second: Seen) -> str | None:
    """The first difference; None if there is none."""
    for one, other in zip(first, second, strict=False):
        if one != other:
            what = f"image {other[1]}, varied otherwise" if one[:2] == other[:2] else f"image {other[1]}, not {one[1]}"
            return f"DIFFERENT in update {one[0]}: {what}"
    return None if len(first) == len(second) else f"DIFFERENT: {len(second)} images, not {len(first)}"
