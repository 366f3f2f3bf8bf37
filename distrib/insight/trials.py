"""Trial runs: what is trained in order to verify a claim, with which launcher, and where."""

import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import tyro

from distrib import command
from distrib.images import order
from distrib.settings import require

HOUSE = Path(__file__).resolve().parents[1]
TRAIN, VERBS = HOUSE / "train.py", HOUSE / "__main__.py"
EPOCHS, BATCH, SAVE_EVERY = 3, 96, 4
SHOWN = 12  # hexadecimal digits of a SHA-256
SMALL = ["--data=synthetic", "--image-size=16", "--test-images=192", "--model=simplecnn", "--width=8", "--lr=0.05"]
# Micro-batches so small that each of many processes still accumulates.
SMALL += [f"--epochs={EPOCHS}", f"--batch-size={BATCH}", "--micro-batch=5", "--clip-norm=1", "--ema-decay=0.99"]
FITTED = {"--width", "--image-size"}  # what goes with our own choice of a network, and is left to another
OURS = {"--name", "--out"}

T = TypeVar("T")


def read_request(kind: type[T], arguments: list[str], claim: str) -> tuple[T, list[str]]:
    """What is asked of us, and the flags of training: all others, and whatever follows ``--``.

    Raises:
        SettingsError: a flag of training is ours to give.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    request, others = tyro.cli(kind, args=arguments[:end], prog=f"distrib verify {claim}", return_unknown_args=True)
    flags = [*others, *arguments[end + 1 :]]
    given = names(flags)
    require(not given & OURS, "--name and --out are given by us: --dir names the folder of all runs")
    return request, flags


def names(flags: list[str]) -> set[str]:
    """The names among the flags."""
    return {flag.partition("=")[0] for flag in flags if flag.startswith("--")}


def check_worlds(worlds: tuple[int, ...]) -> None:
    """Refuse numbers of processes among which there is nothing to compare. Raises SettingsError."""
    require(len({*worlds}) == len(worlds) > 1, "--worlds are at least two different numbers")
    require(min(worlds) > 0, "--worlds are at least 1")


def check_shares(flags: list[str], worlds: tuple[int, ...]) -> None:
    """Refuse flags of training that some number of processes cannot train with. Raises SettingsError."""
    settings = command.parse(flags, prog="the runs to verify")
    for world in worlds:
        shares = settings.compute.shares(world)
        order.own_shares(shares, 0, world)
        order.check_shares(settings.optimization.batch_size, shares, virtual=settings.compute.exact)


def leave_nothing_behind() -> None:
    """Let a signal end us as Ctrl-C does: nothing that was started here stays behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is not
            signal.signal(number, signal.default_int_handler)


def small(flags: list[str], updates: int) -> list[str]:
    """The flags of a small run of so many updates, and the given ones; with --config among them, these alone."""
    given = names(flags)
    left = FITTED if "--model" in given else set()
    ours = [flag for flag in SMALL if flag.partition("=")[0] not in left]
    ours = [] if "--config" in given else [*ours, f"--train-images={updates // EPOCHS * BATCH}"]
    # What changes nothing that is computed: a recipe keeps its meaning.
    free = ["--log-every=1", f"--save-every={SAVE_EVERY}", "--wandb=off", "--no-report"]
    return [*ours, *free, *flags]  # what comes later wins


def starter(launcher: str | None, world: int | None = None) -> list[str]:
    """The beginning of a command, before the script, that starts its processes: ``world`` of them, if that is given.

    Raises:
        SettingsError: there is no such program, or the launcher does not say where to put the number.
    """
    if launcher is None:
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        return [sys.executable, *(several if world and world > 1 else [])]
    if world is not None:
        require("{}" in launcher, f"--launcher {launcher}: put {{}} where the number of processes belongs")
        launcher = launcher.replace("{}", str(world))
    words = shlex.split(launcher)
    require(words and shutil.which(words[0]), f"--launcher {launcher}: there is no such program")
    return words


def workplace(wanted: Path | None, names: Iterable[str]) -> Path:
    """The folder of the runs, which are to have these names.

    Raises:
        SettingsError: it holds some of them already.
    """
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="distrib-verify-"))
    free = not any((wanted / name).exists() for name in names)
    require(free, f"--dir {wanted} holds runs of an earlier verification: remove them, or name another folder")
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted.resolve()


def put_away(place: Path, wanted: Path | None, code: int) -> int:
    """Remove the folder of the runs if all is well and nobody asked for it, else say where it is; return the code."""
    if code == 0 and wanted is None:
        shutil.rmtree(place)
    else:
        print(f"The runs, and what they printed, are in {place}")
    return code
