"""Opening a run's folder: a fresh one, or that of an unfinished run, which goes on."""

import dataclasses
import itertools
import re
import sys
import time
from pathlib import Path
from typing import Any

from distrib import command
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.ending import Ending, Finished
from distrib.lifecycle.files import write_whole
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.lock import Lock
from distrib.lifecycle.processes import Processes
from distrib.settings import LOCATED_DATA, Settings, SettingsError

# What a run may change when it goes on: where it reads, writes and computes, not what.
FREE = {
    *("data_root", "loading", "workers", "name", "out", "device", "log_every"),
    *("report", "wandb", "keep_pages", "accept_inexact"),
    *("save_every", "save_every_minutes", "keep", "keep_every", "on_divergence", "max_bad_updates", "hang_timeout"),
}


def recall(settings: Settings) -> Settings:
    """Give ``auto`` the meaning it had when the run of that name began, so that the same command goes on with it."""
    name = settings.lifecycle.name
    saved = RunFolder(settings.lifecycle.out / name).settings if name else None
    try:
        if saved is None or not saved.exists():
            return settings
    except OSError as error:
        raise SettingsError(f"cannot read {saved}: {error.strerror}. Choose another --name or --out") from None
    before, data, compute = command.load(saved), settings.data, settings.compute
    if data.data == "auto":
        data = dataclasses.replace(data, data=before.data.data)
    if compute.precision == "auto":
        compute = dataclasses.replace(compute, precision=before.compute.precision)
    return dataclasses.replace(settings, data=data, compute=compute)


def open_run(settings: Settings, processes: Processes, ending: Ending) -> tuple[RunFolder, Checkpoint | None]:
    """Make the run's folder, or find that of an unfinished run and the checkpoint from which it goes on.

    Rank 0 decides and all ranks follow. It holds the lock until the ending.

    Raises:
        SettingsError: a run of that name had other settings or is under way, or the folder cannot be written.
        Finished: the run of that name is finished.
    """
    lock = Lock()
    ending.then(lock.release)
    path, saved = processes.agreed(lambda: _prepare(settings, lock))
    return RunFolder(path), Checkpoint(saved) if saved else None


def _prepare(settings: Settings, lock: Lock) -> tuple[Path, Path | None]:
    """The paths of the folder and of the checkpoint."""
    try:
        name = settings.lifecycle.name
        folder = RunFolder(settings.lifecycle.out / name if name else _fresh_path(settings))
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        lock.take(folder.path)
        if folder.settings.exists():
            compare(folder, settings)
        checkpoint, messages = checkpoints.newest(folder.checkpoints)
    except OSError as error:
        raise SettingsError(f"cannot write to {settings.lifecycle.out}: {error}. Choose another --out") from None
    for message in messages:
        print(message, file=sys.stderr)
    if checkpoint is not None and not folder.settings.exists():
        raise SettingsError(
            f"the run {folder.path} has lost its settings.yaml, so that nobody can tell whether this would be the same "
            f"run. Bring the file back, or train under another --name, from these weights if you like (--init "
            f"{folder.path})"
        )
    if checkpoint is not None and checkpoint.state["finished"]:
        raise Finished(
            f"The run {folder.path} is finished. Look at it with `python -m distrib evaluate {folder.path}`, or train "
            "another one under another --name."
        )
    try:
        _write_settings(folder, settings)
    except OSError as error:
        raise SettingsError(f"cannot write to {folder.path}: {error}. Make room, or choose another --out") from None
    return folder.path, checkpoint.path if checkpoint else None


def _write_settings(folder: RunFolder, settings: Settings) -> None:
    # Without its name: the recipe describes the run, and fed back in it makes another one.
    nameless = dataclasses.replace(settings, lifecycle=dataclasses.replace(settings.lifecycle, name=None))
    write_whole(folder.settings, command.dump(nameless))


def _fresh_path(settings: Settings) -> Path:
    kind, _, place = settings.data.data.partition(":")
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{settings.model.model}-{Path(place).name or kind}")
    stem = f"{words}-{time.strftime('%Y%m%d-%H%M%S')}"
    for count in itertools.count(1):
        path = settings.lifecycle.out / (stem if count == 1 else f"{stem}-{count}")
        try:
            path.mkdir(parents=True)  # taken by making it: another job may begin in the same second
        except FileExistsError:
            continue
        return path
    raise AssertionError


def compare(folder: RunFolder, settings: Settings) -> None:
    """Refuse to go on with a run under settings that would make it another one."""
    before, now = command.load(folder.settings).flat(), settings.flat()
    changed = [key for key in now if key not in FREE and not _same(key, before[key], now[key])]
    if changed:
        some = any(folder.checkpoints.glob(f"{checkpoints.PREFIX}*"))
        weights = f", from these weights if you like (--init {folder.path})" if some else ""
        told = "; ".join(f"--{k.replace('_', '-')} was {before[k]} and is now {now[k]}" for k in changed)
        raise SettingsError(
            f"the run {folder.path} has other settings: {told}. Give the old values to go on with it, or another "
            f"--name to train a new run{weights}"
        )


def _same(key: str, before: Any, now: Any) -> bool:
    """Whether a setting has not changed. Images may move: whether they are the same, their fingerprint says."""
    return before == now or (
        key == "data" and any(before.startswith(place) and now.startswith(place) for place in LOCATED_DATA)
    )
