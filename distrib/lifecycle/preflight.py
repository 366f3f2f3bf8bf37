"""What is looked at before a run costs anything: that its processes are of one mind, and that its disk has room."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from distrib.images.splits import ImageData
from distrib.lifecycle.checkpoints import every
from distrib.lifecycle.environment import environment
from distrib.lifecycle.files import sync
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.numerics import HOUSE, code_digest, fingerprint
from distrib.lifecycle.processes import Processes, host
from distrib.settings import Settings, SettingsError

# Settings that may differ from rank to rank: where and with how many workers a host reads, and what rank 0 alone does.
OWN = {"data_root", "workers", "report", "wandb", "keep_pages"}
PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "pillow")  # what an update depends on

REMEDIES = {
    "settings": "Start every process with the same flags and the same recipe",
    "precision": "Give every process the same --precision; what 'auto' takes depends on the device and the launcher",
    "code": "Bring distrib to the same version on every host",
    "versions": "Install the same versions on every host",
    "device": "Give every process the same kind of device (--device, CUDA_VISIBLE_DEVICES)",
    "numerics": "An --exact run needs the same arithmetic everywhere; --accept-inexact trains, but not exactly",
    "data": "Give every host the same copy of the data set",
}
"""What to do where ranks differ, by kind of fact."""

REMARKS = {
    "commit": "the code that trains is the same all the same",
    "accepted": "the run is not exact",
    "drift": "each process computes Muon's steps for itself: their weights will drift apart in the last bits",
    "pace": "all wait for the slowest",
}
"""What to know where ranks differ in what they may differ in, by kind of fact."""

LISTED = 5  # differences of a kind that a message names
SHOWN = 60  # characters of a value that a message shows

Facts = dict[str, dict[str, Any]]
"""What is so on one rank, by kind and by name."""


def check_ranks(settings: Settings, processes: Processes) -> list[str]:
    """Refuse processes that would not train one network: they were given other settings, code, versions or devices, or
    do not share the file system of the run folder.

    Every process must call it, before anything is made of the settings. Returns what differs and may, to be told.

    Raises:
        SettingsError: on every rank alike, naming the ranks that differ, their hosts and what to do.
    """
    if processes.size == 1:
        return []
    # First: where the folder of an unfinished run is not seen, the settings recalled from it differ too.
    _check_folder(settings.lifecycle.out, processes)
    hosts, facts = _gathered(facts_of(settings, processes), processes)
    found = differences(hosts, facts)
    if found["code"]:
        found["code"] += found.pop("commit")
    _refuse(found)
    return [f"{text}; {remark}" for kind, remark in REMARKS.items() for text in found[kind]]


def check_data(facts: dict[str, Any], processes: Processes) -> None:
    """Refuse processes that hold other images, by what each says of its own. Every process must call it.

    Raises:
        SettingsError: on every rank alike, naming the ranks that differ, their hosts and what to do.
    """
    if processes.size > 1:
        _refuse(differences(*_gathered({"data": dict(_leaves("", facts))}, processes)))


def image_facts(data: ImageData) -> dict[str, Any]:
    """What is to be equal before a feed is built, which speaks with the other processes: counts and classes."""
    return {
        "training images": len(data.train.labels),
        "test images": len(data.test.labels),
        "classes": data.classes,
    }


def facts_of(settings: Settings, processes: Processes) -> Facts:
    """What must be the same on every rank, and what is only remarked upon (:data:`REMARKS`)."""
    here = environment(processes)
    flags = {f"--{name.replace('_', '-')}": value for name, value in settings.flat().items() if name not in OWN}
    del flags["--precision"]  # what it stands for is compared
    compute = settings.compute
    told = {"code", "device", *PACKAGES}  # by the facts on code, versions and device
    muon = settings.optimization.optimizer == "muon" and not compute.exact
    numerics = fingerprint(processes, compute) if compute.exact or muon else {}
    numerics = {name: fact for name, fact in numerics.items() if name not in told}
    return {
        "settings": flags,
        "precision": {"--precision": processes.precision},
        "code": {"code of SHA-256": code_digest(HOUSE)},
        "versions": {"Python": here["python"], **{name: here["packages"][name] for name in PACKAGES}},
        "device": {"device": processes.device.type},
        "numerics": {} if compute.accept_inexact or muon else numerics,
        "accepted": numerics if compute.accept_inexact else {},
        "drift": numerics if muon else {},
        "commit": {"commit": here["commit"]},
        "pace": {"device": here["device_name"], "CPU threads": here["threads"]},
    }


def _gathered(facts: Facts, processes: Processes) -> tuple[list[str], list[Facts]]:
    """Hosts and facts, by rank."""
    everyone = processes.gather((host(), facts))
    return [name for name, _ in everyone], [found for _, found in everyone]


def differences(hosts: Sequence[str], facts: Sequence[Facts]) -> dict[str, list[str]]:
    """By kind, a text for each name whose value is not the same on all ranks: who has which.

    The values of most ranks, or of rank 0 where there is no majority, are those that the others should have.
    """
    found: dict[str, list[str]] = {}
    for kind in facts[0]:
        own = [one.get(kind, {}) for one in facts]
        names = dict.fromkeys(name for mine in own for name in mine)
        told = (_difference(name, [mine.get(name) for mine in own], hosts) for name in names)
        found[kind] = [text for text in told if text]
    return found


def _difference(name: str, values: list[Any], hosts: Sequence[str]) -> str | None:
    holders: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        holders.setdefault(_shown(value), []).append(rank)
    if len(holders) == 1:
        return None
    usual = max(holders, key=lambda value: (len(holders[value]), 0 in holders[value]))
    odd = ", ".join(
        f"{who(ranks, hosts)} {_have(ranks)} {name} {value}" for value, ranks in holders.items() if value != usual
    )
    return f"{odd} where {who(holders[usual], hosts)} {_have(holders[usual])} {usual}"


def _have(ranks: list[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _shown(value: Any) -> str:
    """The value as text; of a long one the beginning, and a digest that tells it from others."""
    text = str(value)
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}... (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def who(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """These ranks and their hosts, such as ``ranks 0-3, 5 on hosts a, b``. ``hosts`` are those of all ranks."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    numbers = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    places = list(dict.fromkeys(hosts[rank] for rank in ranks))
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return (
        f"rank{'s' if len(ranks) > 1 else ''} {numbers} "
        f"on host{'s' if len(places) > 1 else ''} {', '.join(places[:LISTED])}{more}"
    )


def _refuse(found: dict[str, list[str]]) -> None:
    """Raise if anything differs that must not. Every rank has gathered the same, and so raises the same."""
    told = []
    for kind, remedy in REMEDIES.items():
        if texts := found.get(kind):
            more = f"; and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
            told.append(f"{'; '.join(texts[:LISTED])}{more}. {remedy}")
    if told:
        raise SettingsError(f"the processes of this run differ: {'. '.join(told)}")


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside of dictionaries and lists, so that a message names the one of a thousand that differs."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(f"{name}[{place}]", inner)
    else:
        yield name, value


def _check_folder(out: Path, processes: Processes) -> None:
    """Refuse processes that do not find in ``out`` what rank 0 writes there."""
    with ExitStack() as stack:
        token, level = processes.agreed(lambda: stack.enter_context(written(out)))
        place = _upwards(out)[level]
        found = processes.gather((host(), str(place), _read(place / token) == token))
    blind = [rank for rank, (_, _, seen) in enumerate(found) if not seen]
    if blind:
        raise SettingsError(
            f"{who(blind, [name for name, _, _ in found])} cannot read what rank 0 on host {found[0][0]} writes to "
            f"{found[0][1]} (looked in {found[blind[0]][1]}): every process needs the run folder. Put --out on a file "
            "system that all hosts share, and start all processes in the same folder"
        )


@contextmanager
def written(out: Path) -> Iterator[tuple[str, int]]:
    """Prove that ``out`` can be written to: a small file lies there while this is entered, and nothing afterwards.

    Where ``out`` does not exist yet, the nearest folder above it is taken. Gives the file's name, which is also what it
    holds, and how many levels above ``out`` it lies.

    Raises:
        SettingsError: it cannot be written.
    """
    # A name that nobody has looked for: a network file system remembers for a while that a file was not there. For the
    # same reason the folder is not made for this.
    token = f".distrib-{secrets.token_hex(8)}"
    places = _upwards(out)
    level = next(at for at, place in enumerate(places) if os.access(place, os.F_OK))
    file = places[level] / token
    try:
        try:
            file.write_text(token, encoding="utf-8")
            sync(file)
        except OSError as error:
            raise SettingsError(f"cannot write to {out}: {error.strerror}. Choose another --out") from None
        yield token, level
    finally:
        with suppress(OSError):
            file.unlink()


def _upwards(out: Path) -> list[Path]:
    """``out`` and every folder above it."""
    return [out.absolute(), *out.absolute().parents]


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None


def room_in(folder: RunFolder, network: nn.Module, settings: Settings, world: int, updates: int) -> str | None:
    """What to know if the disk of the run folder, which need not exist yet, has no room for the run's checkpoints."""
    place = next(above for above in _upwards(folder.path) if os.access(above, os.F_OK))
    asked = settings.lifecycle
    most = asked.keep + 2 + (updates // asked.keep_every if asked.keep_every else 0)
    missing = max(1, most - len(every(folder.checkpoints)))
    return room(place, shutil.disk_usage(place).free, checkpoint_bytes(network, settings, world), missing)


def room(place: Path, free: int, checkpoint: int, count: int) -> str | None:
    """What to know if ``free`` bytes do not take ``count`` checkpoints of so many bytes each, else None.

    A run needs room for those that are kept, for the best and for the one being written.
    """
    if free >= count * checkpoint:
        return None
    return (
        f"the disk of {place} has {bytes_text(free)} left, but up to {count} checkpoints of {bytes_text(checkpoint)} "
        f"need {bytes_text(count * checkpoint)}. Make room, keep fewer (--keep, --keep-every) or choose another --out"
    )


def bytes_text(count: int) -> str:
    """So many bytes as a person would say it."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def checkpoint_bytes(network: nn.Module, settings: Settings, world: int) -> int:
    """Estimate of the size of a checkpoint: weights, optimizer, average, remainders and statistics, all in fp32."""
    optimization = settings.optimization
    weights = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    slots = 1 if optimization.optimizer == "sgd" else 2
    networks = 1 if optimization.ema_decay is None else 2
    # Each network once with averaged statistics; with several processes, everybody's own ones too.
    copies = networks * (1 + (world if world > 1 else 0))
    remainders = world if settings.compute.comm == "powersgd" and world > 1 else 0  # of about all weights
    return 4 * (weights * (networks + slots + remainders) + statistics * copies)
