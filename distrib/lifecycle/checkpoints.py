"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all. No pickle anywhere."""

import hashlib
import json
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
KEPT = 2  # newest checkpoints that stay, besides the best

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a run: named groups of tensors, and a JSON state."""

    path: Path

    @property
    def state(self) -> dict[str, Any]:
        """Counters, scores and whatever else is no tensor."""
        content: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        return content

    def tensors(self, group: str) -> Tensors:
        """The tensors of a group, on the CPU; none if the group was not saved."""
        file = self.path / f"{group}.safetensors"
        return safetensors.torch.load_file(file) if file.exists() else {}

    def fault(self) -> str | None:
        """What is wrong with the files, or None if each has the SHA-256 that the manifest gives."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            missing = {STATE, MODEL} - set(manifest)
            wrong = [name for name, digest in manifest.items() if sha256(self.path / name) != digest]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        if missing:
            return f"its manifest lacks {', '.join(sorted(missing))}"
        return f"{', '.join(wrong)} changed since it was written" if wrong else None

    def score(self) -> float | None:
        """Test accuracy of its weights, of 1; None if they were not evaluated, or the state cannot be read."""
        try:
            return float(self.state["test_top1"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # but not if the disk does not answer: what cannot be read now must not be pruned


def save(folder: Path, update: int, groups: dict[str, Tensors], state: dict[str, Any]) -> Checkpoint:
    """Write a checkpoint of ``update`` below ``folder``, and prune older ones once it stands.

    It is written under another name, each file and the folder are forced to the disk, the manifest last, and then it is
    renamed: whatever interrupts this, the folder's final name holds all of it or does not exist.
    """
    final = folder / f"update-{update:09d}"
    partial = folder / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for group, tensors in groups.items():
        if tensors:
            safetensors.torch.save_file(tensors, partial / f"{group}.safetensors")
    (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    names = sorted(file.name for file in partial.iterdir())
    (partial / MANIFEST).write_text(json.dumps({n: sha256(partial / n) for n in names}, indent=1), encoding="utf-8")
    for name in (*names, MANIFEST):
        sync(partial / name)
    sync(partial)
    if final.exists():
        shutil.rmtree(final)  # saved twice: a folder cannot be renamed onto another
    partial.rename(final)
    sync(folder)
    saved = Checkpoint(final)
    if saved.fault() is None:
        _prune(folder)
    return saved


def every(folder: Path) -> list[Checkpoint]:
    """All checkpoints below ``folder``, oldest first, verified or not."""
    return [Checkpoint(path) for path in sorted(folder.glob("update-*")) if path.is_dir()]


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are whole, and a message for each that was set aside for it."""
    for partial in folder.glob(".partial-*"):  # a save that something interrupted
        shutil.rmtree(partial, ignore_errors=True)
    messages: list[str] = []
    for checkpoint in reversed(every(folder)):
        fault = checkpoint.fault()
        if fault is None:
            return checkpoint, messages
        aside = checkpoint.path.with_name(f"damaged-{checkpoint.path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.path.rename(aside)
        messages.append(f"checkpoint {checkpoint.path.name} is damaged ({fault}); set aside as {aside.name}")
    return None, messages


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
        chosen = best(source / "checkpoints") or next(reversed(every(source / "checkpoints")), None)
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


def _prune(folder: Path) -> None:
    kept = every(folder)[-KEPT:]
    top = best(folder)
    for checkpoint in every(folder):
        if checkpoint not in kept and checkpoint != top:
            shutil.rmtree(checkpoint.path)
