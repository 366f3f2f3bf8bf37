"""A packed data set: a few large files that are mapped into memory, in place of very many small ones.

A folder, as ``distrib pack`` writes it::

    pack.json        what it is, and length and SHA-256 of each other file
    train.npy        (images, 6) int64, a row for each image: see :data:`COLUMNS`
    train-00000.bin  images, one after the other, as bytes of (height, width, 3) or as JPEG
    test.npy, test-00000.bin

The idea is FFCV's (https://arxiv.org/abs/2306.12517): what is read again in every epoch is decoded and scaled once.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from distrib.images.cropping import Choose, Pixels, scaled
from distrib.images.decoding import cropped, rgb
from distrib.images.order import Indices
from distrib.images.splits import ImageData, Labels, digest_of
from distrib.settings import SettingsError

Form = Literal["jpeg", "raw"]
MANIFEST, VERSION = "pack.json", 1
NEEDED = {"name", "classes", "mirrored", "form", "files"}
COLUMNS = ("shard", "offset", "bytes", "height", "width", "label")


@dataclass(frozen=True)
class PackedSplit:
    """Images in shards. ``rows`` are those of the index, ``labels`` theirs; ``digest`` is of all shards."""

    root: Path
    name: str
    form: Form
    rows: Indices
    labels: Labels
    digest: str

    @cached_property
    def _shards(self) -> dict[int, Pixels]:
        """Those that were looked into, mapped. Nobody writes to them, and what is written would stay here."""
        return {}

    def _row(self, index: int) -> tuple[Pixels, tuple[int, int, int]]:
        """An image's bytes, (n,) uint8, and the shape of its pixels."""
        shard, offset, length, height, width, _ = self.rows[index].tolist()
        if shard not in self._shards:
            file = self.root / shard_name(self.name, shard)
            # NumPy's maps hold their files open, of which a process may have but some thousand.
            self._shards[shard] = torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8).numpy()
        return self._shards[shard][offset : offset + length], (height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        """Without the shards: another process maps them for itself, where a copy of their bytes would be sent."""
        return {name: value for name, value in vars(self).items() if name != "_shards"}

    def where(self, index: int) -> str:
        """Name the row."""
        return f"image {index} of {self.name} in {self.root}"

    def image(self, index: int) -> Image.Image:
        """Read the image."""
        content, shape = self._row(index)
        if self.form == "raw":
            return Image.fromarray(content.reshape(shape))
        return rgb(content.tobytes(), self.where(index))

    def crop(self, index: int, choose: Choose, size: int) -> Pixels:
        """Read a part of the image."""
        content, shape = self._row(index)
        if self.form == "raw":
            return scaled(content.reshape(shape), choose(shape[1], shape[0]), size)
        return cropped(content.tobytes(), self.where(index), choose, size)

    def head(self, images: int) -> "PackedSplit":
        """Take the first rows."""
        return replace(self, rows=self.rows[:images], labels=self.labels[:images])

    def fingerprint(self) -> str:
        """Of labels and of the shards, as their manifest gives them."""
        found = digest_of("packed", len(self.labels), self.labels)
        found.update(self.digest.encode())
        return str(found.hexdigest())


def shard_name(split: str, number: int) -> str:
    """The file of a shard."""
    return f"{split}-{number:05}.bin"


def load(root: Path) -> ImageData:
    """Open a packed data set; its images are read when they are needed.

    Raises:
        SettingsError: it is none, is of another version, or files of it are missing or were cut off.
    """
    manifest = read_manifest(root)
    for name, facts in manifest["files"].items():
        file = root / name
        length = file.stat().st_size if file.is_file() else None
        if length != facts["bytes"]:
            found = "is missing" if length is None else f"has {length:,} bytes"
            raise SettingsError(f"{file} {found}, where {facts['bytes']:,} bytes were packed: pack the data set again")
    train, test = (_split(root, name, manifest) for name in ("train", "test"))
    return ImageData(manifest["name"], tuple(manifest["classes"]), train, test, mirrored=manifest["mirrored"])


def read_manifest(root: Path) -> dict[str, Any]:
    """What a packed data set says of itself.

    Raises:
        SettingsError: it is none, or of another version.
    """
    try:
        manifest: dict[str, Any] = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{root} is no packed data set, whose {MANIFEST} says what it holds ({error}). "
            "Make one with `distrib pack FOLDER --data ...`"
        ) from None
    known = isinstance(manifest, dict) and manifest.get("version") == VERSION
    if not known or not manifest.keys() >= NEEDED:
        told = f"{root} was packed by another version of distrib, or its {MANIFEST} is damaged"
        raise SettingsError(f"{told}: pack the data set again")
    return manifest


def damaged(root: Path) -> list[str]:
    """Names of the files that do not hold what was packed. Reads all of them."""
    found = []
    for name, facts in read_manifest(root)["files"].items():
        try:
            whole = _sha256(root / name) == facts["sha256"]
        except OSError:
            whole = False
        found += [] if whole else [name]
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(root: Path, name: str, manifest: dict[str, Any]) -> PackedSplit:
    files, index = manifest["files"], root / f"{name}.npy"
    if _sha256(index) != files.get(index.name, {}).get("sha256"):
        raise SettingsError(f"{index} is damaged: pack the data set again")
    rows = np.load(index, mmap_mode="r")
    labels = np.array(rows[:, COLUMNS.index("label")])
    shards = [files[file]["sha256"] for file in sorted(files) if file.startswith(f"{name}-")]
    return PackedSplit(root, name, manifest["form"], rows, labels, " ".join([manifest["form"], *shards]))
