"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all. No pickle anywhere."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distrib.lifecycle.files import sync
from distrib.settings import SettingsError

MANIFEST, STATE, MODEL = "manifest.json", "state.json", "model.safetensors"
PREFIX, BEFORE = "update-", "before-"

NEEDED = {"update": int, "epoch": int, "finished": bool, "data": dict}
"""What every state says, and the type of it."""
COUNTS = ("world_size", "threads")  # what it may say besides: whole numbers, at least 1
NOT_AS_WRITTEN = "does not read back as it was written"
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes
LISTED, SHOWN = 5, 80  # names in a message, and characters of each

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
        return self._json(STATE)

    def _json(self, name: str) -> dict[str, Any]:
        content = json.loads(regular(self.path / name).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{name} is no JSON object")  # noqa: TRY004 - as what is no JSON at all
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
            manifest = self._json(MANIFEST)
            found = {file.name for file in self.path.glob("*.safetensors")}  # what nothing vouches for is no better
            missing = ({STATE, MODEL} | found) - set(manifest)
            wrong = [name for name, digest in manifest.items() if not self._is_whole(name, digest, hashes=hashes)]
            state = self.state
        except (OSError, ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"
        if missing:
            return f"its manifest lacks {told(missing)}"
        if wrong:
            return f"{told(wrong)} changed since it was written"
        return self._misstated(state)

    def _misstated(self, state: dict[str, Any]) -> str | None:
        """What is wrong with a state, though it be what was saved: somebody may have edited it, and the manifest."""
        unfit = {name for name, kind in NEEDED.items() if type(state.get(name)) is not kind}
        if not unfit and not 0 <= state["epoch"] <= state["update"]:
            unfit = {"update", "epoch"}  # every epoch has an update
        unfit |= {name for name in COUNTS if type(state.get(name, 1)) is not int or state.get(name, 1) < 1}
        if unfit:
            return f"its {STATE} lacks a sound {told(unfit)}"
        moved = self.update not in (-1, state["update"])
        return f"its {STATE} is of another update, {told([str(state['update'])])}" if moved else None

    def _is_whole(self, name: str, digest: object, *, hashes: bool = True) -> bool:
        if Path(name).name != name:
            return False  # a manifest that names files elsewhere is none of ours
        file = regular(self.path / name)
        if hashes:
            return sha256(file) == digest
        if file.suffix != ".safetensors":
            return file.stat().st_size > 0
        try:
            with safetensors.safe_open(file, framework="pt"):
                return True  # its header fits its size
        except safetensors.SafetensorError:
            return False

    def score(self) -> float | None:
        """Test accuracy of its weights, of 1; None if they were not evaluated, or the state is not what was saved."""
        try:
            if not self._is_whole(STATE, self._json(MANIFEST)[STATE]):
                return None  # a digit that flipped would have the best of all pruned
            score = float(self.state["test_top1"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None  # but not if the disk does not answer: what cannot be read now must not be pruned
        return score if 0 <= score <= 1 else None


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
    """Write a checkpoint of ``state["update"]`` below ``folder``, and prune older ones once it verifies and stands.

    It is written under another name, each file and the folder are forced to the disk, the manifest last, and then it is
    renamed: whatever interrupts this, the folder's final name holds all of it or does not exist.

    Raises:
        OSError: it cannot be written, or does not read back as it was written; nothing of it is left.
    """
    final = folder / f"{PREFIX}{state['update']:09d}"
    partial = folder / f".partial-{final.name}"
    try:
        write(partial, groups, state)
        _rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # frees the room, if that is what it lacked
    sync(folder)
    with contextlib.suppress(OSError):  # this one stands; what cannot be removed now goes with the next
        keeps.prune(folder)
    return Checkpoint(final)


def write(folder: Path, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
    """Write a checkpoint's files into ``folder``, which is made anew, and force them to the disk, the manifest last.

    Raises:
        OSError: they cannot be written, or do not read back as they were written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digests = {}
    for group, tensors in groups.items():
        if tensors:
            file = folder / f"{group}.safetensors"
            put_tensors(file, tensors)
            digests[file.name] = sha256(file)
    _put_json(folder / STATE, state)
    digests[STATE] = sha256(folder / STATE)
    _put_json(folder / MANIFEST, digests)
    sync(folder)


def put_tensors(file: Path, tensors: Tensors, about: dict[str, str] | None = None) -> None:
    """Write tensors, and words about them, into a safetensors file, and force it to the disk.

    Raises:
        OSError: it cannot be written, or does not read back as it was written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}  # the format knows no channels_last
    try:
        # From where they lie: to serialise first copies all, under the GIL.
        safetensors.torch.save_file(tensors, file, about)
        file.chmod(file.parent.stat().st_mode & 0o666)  # it is its owner's alone; others shall read it, as the folder
        sync(file)
        found = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:  # the disk may be full
        raise OSError(str(error)) from None
    if found.keys() != tensors.keys() or not all(same_bits(found[name], tensors[name]) for name in tensors):
        raise OSError(f"{file.name} {NOT_AS_WRITTEN}")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the bit: 0 is not -0, and a NaN is itself. Found out on one core."""
    return one.dtype == other.dtype and np.array_equal(bits(one), bits(other))


def bits(tensor: Tensor) -> npt.NDArray[Any]:
    """The elements of a tensor on the CPU as integers of the same bytes: arrays know no bfloat16, and no equal NaNs."""
    return tensor.view(INTEGERS[tensor.element_size()]).numpy()


def _put_json(file: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1).encode()
    file.write_bytes(text)
    sync(file)
    if file.read_bytes() != text:
        raise OSError(f"{file.name} {NOT_AS_WRITTEN}")


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
    for before in folder.glob(f".{BEFORE}{PREFIX}*"):
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
        score = None
        with contextlib.suppress(OSError):  # then it is not whole either
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
    try:
        if (source / "checkpoints").is_dir():
            chosen = whole(source / "checkpoints")
            source = chosen.path if chosen else source
        ours = source.name.startswith(PREFIX) or any((source / name).exists() for name in (MANIFEST, STATE))
        if source.is_dir() and ours and (fault := Checkpoint(source).fault()):
            raise SettingsError(f"the checkpoint {source} is damaged: {fault}")
        return safetensors.torch.load_file(regular(source / MODEL if source.is_dir() else source))
    except (OSError, safetensors.SafetensorError) as error:
        raise SettingsError(
            f"no weights in {source}: {error}. Name a run folder, a checkpoint or a safetensors file"
        ) from None


def regular(file: Path) -> Path:
    """The file, if it is one: to read a pipe or a device might never end.

    Raises:
        FileNotFoundError: nothing stands there, or something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {told([file.name])}")
    return file


def told(names: Iterable[str]) -> str:
    """Names for a message: of damaged files they may be anything, even what no terminal can print."""
    shown = [name if name.isprintable() else ascii(name) for name in sorted(names)]
    return ", ".join(name if len(name) <= SHOWN else f"{name[:SHOWN]}..." for name in shown[:LISTED])


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
