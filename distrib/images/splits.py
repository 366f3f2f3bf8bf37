"""A split: labelled images of one purpose, read one by one. Three kinds of storage, one interface."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from distrib.images.cropping import Choose, Pixels, scaled
from distrib.images.decoding import ImageError, cropped, rgb
from distrib.images.order import Indices

Labels = npt.NDArray[np.int64]

_AT_ONCE = 4096  # images, or their names, hashed at a time, so that no second copy of them all is made


class Split(Protocol):
    """Labelled images."""

    @property
    def labels(self) -> Labels:
        """Class of each image: (images,) int64."""

    def where(self, index: int) -> str:
        """The image's file or row, for messages."""

    def image(self, index: int) -> Image.Image:
        """The image as RGB. Raises ImageError, naming :meth:`where`, if it cannot be decoded."""

    def crop(self, index: int, choose: Choose, size: int) -> Pixels:
        """The part of the image that ``choose`` picks, scaled to (size, size, 3). Raises as :meth:`image`."""

    def head(self, images: int) -> "Split":
        """The first so many images as a split."""

    def fingerprint(self) -> str:
        """SHA-256 of what a run sees here, as far as that is cheap to tell; the same wherever the data set lies."""


def digest_of(kind: str, images: int | tuple[int, ...], labels: Labels) -> Any:
    """A SHA-256 to go on with. The byte order is the same on every machine."""
    return hashlib.sha256(f"{kind} {images} ".encode() + labels.astype("<i8").tobytes())


@dataclass(frozen=True)
class ArraySplit:
    """Images of one size that lie in memory: ``pixels`` is (images, height, width, 3) uint8."""

    name: str
    pixels: Pixels
    labels: Labels

    def where(self, index: int) -> str:
        """Name the row."""
        return f"image {index} of {self.name}"

    def image(self, index: int) -> Image.Image:
        """Return the row."""
        return Image.fromarray(self.pixels[index])

    def crop(self, index: int, choose: Choose, size: int) -> Pixels:
        """Scale a part of the row."""
        height, width = self.pixels.shape[1:3]
        return scaled(self.pixels[index], choose(width, height), size)

    def head(self, images: int) -> "ArraySplit":
        """Take the first rows."""
        return ArraySplit(self.name, self.pixels[:images], self.labels[:images])

    def fingerprint(self) -> str:
        """Of pixels and labels."""
        digest = digest_of("array", self.pixels.shape, self.labels)
        for start in range(0, len(self.pixels), _AT_ONCE):
            digest.update(np.ascontiguousarray(self.pixels[start : start + _AT_ONCE]).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class FileSplit:
    """Images in files: ``names`` in the folder of their class, which ``folders`` has by label.

    Millions of paths, each an object of its own, would take gigabytes.
    """

    folders: Sequence[Path]
    names: Sequence[str]
    labels: Labels

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folders[self.labels[index]] / self.names[index]

    def where(self, index: int) -> str:
        """Name the file."""
        return str(self.path(index))

    def image(self, index: int) -> Image.Image:
        """Decode the file."""
        return rgb(self.path(index), self.where(index))

    def crop(self, index: int, choose: Choose, size: int) -> Pixels:
        """Decode a part of the file."""
        return cropped(self.path(index), self.where(index), choose, size)

    def head(self, images: int) -> "FileSplit":
        """Take the first files."""
        return replace(self, names=self.names[:images], labels=self.labels[:images])

    def fingerprint(self) -> str:
        """Of names, such as cat/0001.jpg, and labels: to ask for the sizes of a million files would take minutes."""
        digest = digest_of("files", len(self.names), self.labels)
        classes = [folder.name for folder in self.folders]
        for start in range(0, len(self.names), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            pairs = zip(self.labels[some].tolist(), self.names[some], strict=True)
            files = b"\0".join(os.fsencode(f"{classes[label]}/{name}") for label, name in pairs)
            digest.update(b"\0" + files if start else files)
        return digest.hexdigest()


@dataclass(frozen=True)
class TableSplit:
    """Encoded images in a column of a Hugging Face data set, whose cells hold ``bytes`` or a ``path``.

    ``rows`` are those of the table that belong to the split, and ``labels`` theirs.
    """

    name: str
    table: Any
    column: str
    rows: Indices
    labels: Labels

    def where(self, index: int) -> str:
        """Name the row."""
        return f"row {self.rows[index]} of {self.name}, column '{self.column}',"

    def image(self, index: int) -> Image.Image:
        """Decode the row."""
        return rgb(*self._encoded(index))

    def crop(self, index: int, choose: Choose, size: int) -> Pixels:
        """Decode a part of the row."""
        return cropped(*self._encoded(index), choose, size)

    def _encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The row's bytes or file, and what to call it."""
        where = self.where(index)
        try:
            cell = self.table.data.column(self.column)[int(self.rows[index])].as_py()  # datasets' own way takes longer
        except Exception as error:  # noqa: BLE001 - pyarrow and fsspec each raise their own kinds
            raise ImageError(f"{where} cannot be read: {error} ({type(error).__name__})") from None
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise ImageError(f"{where} holds no image")
        if cell["bytes"] is None:
            return Path(cell["path"]), f"{where} file {cell['path']},"
        return cell["bytes"], where

    def head(self, images: int) -> "TableSplit":
        """Take the first rows."""
        return self.part(slice(images))

    def part(self, rows: slice | npt.NDArray[np.bool_]) -> "TableSplit":
        """Take some of the rows, in their order."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def fingerprint(self) -> str:
        """Of labels and of each image's length in bytes, or its file's name: to read the bytes would take minutes."""
        from pyarrow import compute  # noqa: PLC0415 - datasets has loaded it already

        cells = self.table.data.column(self.column)
        lengths = compute.binary_length(compute.struct_field(cells, "bytes")).to_pylist()
        paths = compute.struct_field(cells, "path").cast("binary").to_pylist()  # damaged ones are no text
        names = [(path or b"").rpartition(b"/")[2] for path in paths]
        known = [names[row] if lengths[row] is None else lengths[row] for row in self.rows.tolist()]
        digest = digest_of("table", len(self.rows), self.labels)
        digest.update(repr((self.column, known)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A data set: what its classes are called, and its two splits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mirrored: bool = True
    """Whether an image turned left to right still shows its class."""
