"""``distrib pack``: a data set as a few large files, for ``--data pack:FOLDER``."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tyro
from PIL import Image
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from distrib.images import sources
from distrib.images.decoding import ImageError
from distrib.images.packed import MANIFEST, VERSION, Form, damaged, shard_name
from distrib.images.serving import served, served_by
from distrib.images.splits import Split
from distrib.images.workers import cores
from distrib.settings import Data, SettingsError, require

SHARD = 2**28  # bytes after which the next shard begins
_AT_ONCE = 16  # images that a process is given at a time

Packed = tuple[bytes, int, int] | str  # an image's bytes, height and width; or what is wrong with it


@dataclass(frozen=True, kw_only=True)
class Request:
    """Store a data set as a few large files, whose images are no larger than needed, for --data pack:FOLDER."""

    folder: tyro.conf.Positional[Path]
    """Folder to write, or to check."""
    data: str | None = None
    """What to pack: what --data of train takes, such as folder:PATH, hf:NAME_OR_PATH or cifar10."""
    check: bool = False
    """Read a packed folder whole and say whether it holds what was packed."""
    form: Form = "jpeg"
    """jpeg: small; raw: bytes of pixels, some ten times as large and many times as fast to read."""
    side: int = 256
    """Images whose short side is longer are scaled to it, pixels."""
    quality: int = 90
    """Of JPEG, from 1 to 95."""
    workers: int | None = None
    """Processes. None: one for each core."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded ends the packing, or is left out."""
    data_root: Path = Path("data")
    """Folder in which named data sets are looked for and downloaded to."""

    def __post_init__(self) -> None:
        require(self.check or self.data is not None, "--data says what to pack")
        require(not self.check or self.data is None, "--check looks at what is packed: leave --data out")
        require(self.side >= 8, "--side is at least 8 pixels")
        require(1 <= self.quality <= 95, "--quality lies in [1, 95]")
        require(self.workers is None or self.workers > 0, "--workers is at least 1")


def main(arguments: list[str]) -> int:
    """Pack or check; return the exit code: 1 if files or images are damaged, 2 for what cannot be asked."""
    try:
        request = tyro.cli(Request, args=arguments, prog="distrib pack")
        return _check(request.folder) if request.check else _pack(request)
    except (SettingsError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ImageError) else 2


def _check(folder: Path) -> int:
    bad = damaged(folder)
    for name in bad:
        print(f"{folder / name} does not hold what was packed")
    print(f"{folder}: {len(bad)} damaged files" if bad else f"{folder} is whole")
    return 1 if bad else 0


def _pack(request: Request) -> int:
    if request.folder.exists():
        raise SettingsError(f"{request.folder} exists: name a new folder")
    settings = Data(data=str(request.data), data_root=request.data_root)
    place = sources.locate(settings)
    data = sources.load(place, settings)
    if place != settings.data:
        print(f"--data {settings.data} is {place} here")
    with _whole(request.folder) as folder:
        files: dict[str, dict[str, Any]] = {}
        left_out, counts = [], []
        for name, told, split in (("train", "training", data.train), ("test", "test", data.test)):
            bad = _write(folder, name, split, request, files)
            left_out += bad
            counts.append(f"{len(split.labels) - len(bad):,} {told}")
        facts = {"version": VERSION, "name": data.name, "classes": data.classes, "mirrored": data.mirrored}
        facts |= {"form": request.form, "side": request.side, "files": files}
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = sum(facts["bytes"] for facts in files.values())
    print(f"packed {' and '.join(counts)} images in {len(files)} files of {size:,} bytes")
    for message in left_out:
        print(f"left out: {message}")
    print(f"train on them with --data pack:{request.folder}")
    return 0


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its name when all is written, and is removed if it is not."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)  # not one that is there already: somebody else's
        try:
            yield partial
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error}") from None


def _write(folder: Path, name: str, split: Split, request: Request, files: dict[str, dict[str, Any]]) -> list[str]:
    """Write a split's images in their order, whatever the number of processes; return what was left out, and why.

    Length and SHA-256 of each file are noted in ``files``.
    """
    rows, left_out = [], []
    with closing(_Shards(folder, name, files)) as shards:
        packed = track(_packed(split, request), name, total=len(split.labels))
        for label, found in zip(split.labels.tolist(), packed, strict=True):
            if isinstance(found, str) and request.on_bad_image == "stop":
                raise ImageError(f"{found} (--on-bad-image skip leaves such images out)")
            if isinstance(found, str):
                left_out.append(found)
                continue
            content, height, width = found
            rows.append((*shards.add(content), len(content), height, width, label))
    if not rows:
        raise ImageError(f"no image of {name} can be decoded")
    index = folder / f"{name}.npy"
    np.save(index, np.array(rows, dtype=np.int64))
    files[index.name] = _facts(index.stat().st_size, hashlib.sha256(index.read_bytes()))
    return left_out


def _facts(length: int, digest: Any) -> dict[str, Any]:
    return {"bytes": length, "sha256": digest.hexdigest()}


class _Shards:
    """Files that images are appended to, each begun when the one before it is full."""

    def __init__(self, folder: Path, name: str, files: dict[str, dict[str, Any]]) -> None:
        self._folder, self._name, self._files = folder, name, files
        self._number, self._offset, self._digest = -1, SHARD, hashlib.sha256()
        self._file: BinaryIO | None = None

    def add(self, content: bytes) -> tuple[int, int]:
        """Append an image; return its shard and offset."""
        if self._offset >= SHARD:
            self.close()
            self._number, self._offset, self._digest = self._number + 1, 0, hashlib.sha256()
            self._file = (self._folder / shard_name(self._name, self._number)).open("wb")
        assert self._file is not None
        self._file.write(content)
        self._digest.update(content)
        self._offset += len(content)
        return self._number, self._offset - len(content)

    def close(self) -> None:
        """End the file that is written to, and note it."""
        if self._file is not None:
            self._file.close()
            self._files[shard_name(self._name, self._number)] = _facts(self._offset, self._digest)


class _Packing(Dataset[Packed]):
    """The images of a split as they are stored."""

    def __init__(self, split: Split, request: Request) -> None:
        self._split, self._request = split, request

    def __len__(self) -> int:
        return len(self._split.labels)

    def __getitem__(self, index: int) -> Packed:
        try:
            image = shrunk(self._split.image(index), self._request.side)
        except ImageError as error:
            return str(error)
        if self._request.form == "raw":
            return image.tobytes(), image.height, image.width
        stream = io.BytesIO()
        try:
            image.save(stream, "JPEG", quality=self._request.quality)
        except OSError as error:  # JPEG has no more than 65,500 pixels a side
            where, sides = self._split.where(index), f"{image.width} x {image.height}"
            return f"{where} cannot be stored as JPEG of {sides} pixels: {error}; --form raw can"
        return stream.getvalue(), image.height, image.width


def _packed(split: Split, request: Request) -> Iterator[Packed]:
    """All images of a split in their order, by processes of which each is given some at a time.

    Raises:
        ImageError: a process died.
    """
    workers = request.workers or cores()
    loader = DataLoader(
        _Packing(split, request),
        batch_size=_AT_ONCE,
        collate_fn=list,
        **served_by(workers),
    )
    for several in served(loader):
        yield from several


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with a short side of ``side`` pixels, or as it is if that is no longer."""
    factor = side / min(image.size)
    if factor >= 1:
        return image
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)
