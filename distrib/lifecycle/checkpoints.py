"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all. No pickle anywhere."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from distrib.lifecycle.files import sync
from distrib.settings import SettingsError

MANIFEST, STATE, MODEL = "manifest.json", "state.json", "model.safetensors"
PREFIX, BEFORE = "update-", "before-"

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a run: named groups of tensors, and a JSON state."""

    path: Path

    @property
    def update(self) -> int:
        """The update after which it was made, from its name; -1 if the name gives none."""
        number = self.path.name.removeprefix(PREFIX)
        return int(number) if number.isdecimal() else -1

    @property
    def state(self) -> dict[str, Any]:
        """Counters, scores and whatever else is no tensor."""
        content: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        return content

    def tensors(self, group: str) -> Tensors:
        """The tensors of a group, on the CPU; none if the group was not saved."""
        file = self.path / f"{group}.safetensors"
        return safetensors.torch.load_file(file) if file.exists() else {}

    def fault(self, *, hashes: bool = True) -> str | None:
        """What is wrong with the files, or None if each has the SHA-256 that the manifest gives.

        Without ``hashes`` a quick look: whether all are there, and as long as they say.
        """
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            missing = {STATE, MODEL} - set(manifest)
            wrong = [name for name, digest in manifest.items() if not self._is_whole(name, digest if hashes else None)]
            unfinished = {"update", "epoch", "finished", "data"} - set(self.state)
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"
        if missing:
            return f"its manifest lacks {', '.join(sorted(missing))}"
        if unfinished:
            return f"its {STATE} lacks {', '.join(sorted(unfinished))}"
        return f"{', '.join(wrong)} changed since it was written" if wrong else None

    def _is_whole(self, name: str, digest: str | None) -> bool:
        file = self.path / name
        if Path(name).name != name:
            return False  # a manifest that names files elsewhere is none of ours
        if digest is not None:
            return sha256(file) == digest
        if file.suffix != ".safetensors":
            return file.stat().st_size > 0
        try:
            with safetensors.safe_open(file, framework="pt"):
                return True  # its header fits its size
        except safetensors.SafetensorError:
            return False

    def score(self) -> float | None:
        """Test accuracy of its weights, of 1; None if they were not evaluated, or the state cannot be read."""
        try:
            return float(self.state["test_top1"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None  # but not if the disk does not answer: what cannot be read now must not be pruned


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the ``newest`` so many, those of every so many updates, and always the best."""

    newest: int = 2
    every: int | None = None

    def prune(self, folder: Path) -> None:
        """Remove the others."""
        found, top = every(folder), best(folder)
        for checkpoint in found[: -self.newest]:
            marked = self.every is not None and checkpoint.update % self.every == 0
            if checkpoint != top and not marked:
                shutil.rmtree(checkpoint.path)


def save(folder: Path, groups: dict[str, Tensors], state: dict[str, Any], keeps: Retention) -> Checkpoint:
    """Write a checkpoint of ``state["update"]`` below ``folder``, and prune older ones once it stands and verifies.

    It is written under another name, each file and the folder are forced to the disk, the manifest last, and then it is
    renamed: whatever interrupts this, the folder's final name holds all of it or does not exist.

    Raises:
        OSError: it cannot be written, or does not read back as it was written; nothing of it is left.
    """
    final = folder / f"{PREFIX}{state['update']:09d}"
    partial = folder / f".partial-{final.name}"
    try:
        _write(partial, groups, state)
        _rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # frees the room, if that is what it lacked
    sync(folder)
    saved = Checkpoint(final)
    fault = saved.fault()
    if fault is not None:
        set_aside(saved)
        raise OSError(f"it does not read back as it was written: {fault}")
    keeps.prune(folder)
    return saved


def _write(partial: Path, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digests = {}
    for group, tensors in groups.items():
        if tensors:
            name = f"{group}.safetensors"
            digests[name] = _put(partial / name, safetensors.torch.save(tensors))
    digests[STATE] = _put(partial / STATE, json.dumps(state, indent=1).encode())
    _put(partial / MANIFEST, json.dumps(digests, indent=1).encode())
    sync(partial)


def _put(file: Path, content: bytes) -> str:
    """Write to the disk; return the SHA-256 of what was meant to be there."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(content).hexdigest()


def _rename(partial: Path, final: Path) -> None:
    """Give the folder its final name. One of that name, saved before an evaluation, stays until this one is there."""
    before = final.with_name(f".{BEFORE}{final.name}")
    if final.exists():
        shutil.rmtree(before, ignore_errors=True)
        final.rename(before)
    partial.rename(final)
    shutil.rmtree(before, ignore_errors=True)


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint, so that nobody goes on with it and somebody can look at it."""
    aside = checkpoint.path.with_name(f"damaged-{checkpoint.path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.path.rename(aside)
    return aside


def tidy(folder: Path) -> None:
    """Clean up after a save that something interrupted."""
    for before in folder.glob(f".{BEFORE}*"):
        final = before.with_name(before.name.removeprefix(f".{BEFORE}"))
        if final.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(final)
    for partial in folder.glob(".partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


def every(folder: Path) -> list[Checkpoint]:
    """All checkpoints below ``folder``, oldest first, verified or not."""
    return [Checkpoint(path) for path in sorted(folder.glob(f"{PREFIX}*")) if path.is_dir()]


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are whole, and a message for each that was set aside for it."""
    tidy(folder)
    messages: list[str] = []
    for checkpoint in reversed(every(folder)):
        fault = checkpoint.fault()
        if fault is None:
            return checkpoint, messages
        aside = set_aside(checkpoint)
        messages.append(f"checkpoint {checkpoint.path.name} is damaged ({fault}); set aside as {aside.name}")
    return None, messages


def whole(folder: Path, *, latest: bool = False) -> Checkpoint | None:
    """The best checkpoint whose files are whole, or, where none was scored or it is asked for, the newest."""

    def rank(checkpoint: Checkpoint) -> tuple[float, int]:
        score = None if latest else checkpoint.score()
        return (1, -checkpoint.update) if score is None else (-score, checkpoint.update)

    return next((checkpoint for checkpoint in sorted(every(folder), key=rank) if checkpoint.fault() is None), None)


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint of the best test accuracy among those kept; the earlier one of equals."""
    scored = [(score, c) for c in every(folder) if (score := c.score()) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def weights(source: Path) -> Tensors:
    """The weights in a run folder (its best), a checkpoint folder or a safetensors file.

    Raises:
        SettingsError: there are none.
    """
    if (source / "checkpoints").is_dir():
        chosen = whole(source / "checkpoints")
        source = chosen.path if chosen else source
    if (source / MANIFEST).exists() and (fault := Checkpoint(source).fault()):
        raise SettingsError(f"the checkpoint {source} is damaged: {fault}")
    file = source / MODEL if source.is_dir() else source
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise SettingsError(
            f"no weights in {source}: {error}. Name a run folder, a checkpoint or a safetensors file"
        ) from None


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
