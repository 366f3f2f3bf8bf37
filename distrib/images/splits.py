"""A split: labelled images of one purpose, read one by one. Three kinds of storage, one interface."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from distrib.images.decoding import ImageError, Pixels, rgb

Labels = npt.NDArray[np.int64]


class Split(Protocol):
    """Labelled images."""

    @property
    def labels(self) -> Labels:
        """Class of each image: (images,) int64."""

    def where(self, index: int) -> str:
        """The image's file or row, for messages."""

    def image(self, index: int) -> Image.Image:
        """The image as RGB. Raises ImageError, naming :meth:`where`, if it cannot be decoded."""

    def head(self, images: int) -> "Split":
        """The first so many images as a split."""


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

    def head(self, images: int) -> "ArraySplit":
        """Take the first rows."""
        return ArraySplit(self.name, self.pixels[:images], self.labels[:images])


@dataclass(frozen=True)
class FileSplit:
    """Images in files."""

    paths: Sequence[Path]
    labels: Labels

    def where(self, index: int) -> str:
        """Name the file."""
        return str(self.paths[index])

    def image(self, index: int) -> Image.Image:
        """Decode the file."""
        return rgb(self.paths[index], self.where(index))

    def head(self, images: int) -> "FileSplit":
        """Take the first files."""
        return FileSplit(self.paths[:images], self.labels[:images])


@dataclass(frozen=True)
class TableSplit:
    """Encoded images in a column of a Hugging Face data set, whose rows hold ``bytes`` or a ``path``."""

    name: str
    table: Any
    column: str
    labels: Labels

    def where(self, index: int) -> str:
        """Name the row."""
        return f"row {index} of {self.name}, column '{self.column}',"

    def image(self, index: int) -> Image.Image:
        """Decode the row."""
        cell = self.table[index][self.column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise ImageError(f"{self.where(index)} holds no image")
        return rgb(Path(cell["path"]) if cell["bytes"] is None else cell["bytes"], self.where(index))

    def head(self, images: int) -> "TableSplit":
        """Take the first rows."""
        kept = self.table.select(range(min(images, len(self.table))))
        return TableSplit(self.name, kept, self.column, self.labels[:images])


@dataclass(frozen=True)
class ImageData:
    """A data set: what its classes are called, and its two splits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mirrored: bool = True
    """Whether an image turned left to right still shows its class."""
