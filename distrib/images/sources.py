"""Where images come from: each ``--data`` value gives a data set, or a message that says what to do."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distrib.images.hashing import draw, key
from distrib.images.splits import ArraySplit, FileSplit, ImageData, Split, TableSplit
from distrib.settings import Data, SettingsError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
TEST_NAMES = ("test", "validation", "valid", "val")
SYNTHETIC = {"train": 2048, "test": 512}  # images, unless --train-images or --test-images says otherwise


def locate(data: Data) -> str:
    """Resolve ``auto`` to a data set that can be had, downloading it if need be; check that a named one can.

    Raises:
        SettingsError: the named data set is absent; says what to do.
    """
    if data.data not in ("auto", "cifar10", "cifar100"):
        return data.data
    name = "cifar10" if data.data == "auto" else data.data
    try:
        _cifar(name, data.data_root)
    except (OSError, RuntimeError) as error:
        if data.data == "auto":
            return "digits"
        raise SettingsError(
            f"--data {name} is not in {data.data_root.absolute()} and could not be downloaded ({error}). Put "
            f"'{_archive(name)}' there, point --data-root at the folder that holds it, name a local copy with "
            "--data hf:PATH or --data folder:PATH, or use --data digits, which needs no download"
        ) from None
    return name


def load(name: str, data: Data) -> ImageData:
    """Load the data set that :func:`locate` gave, cut to ``--train-images`` and ``--test-images``."""
    kind, _, place = name.partition(":")
    loaders: dict[str, Callable[[], ImageData]] = {
        "digits": _digits,
        "synthetic": lambda: _synthetic(data),
        "cifar10": lambda: _cifar(name, data.data_root),
        "cifar100": lambda: _cifar(name, data.data_root),
        "folder": lambda: _folder(Path(place).expanduser()),
        "hf": lambda: _hugging_face(place),
    }
    found = loaders[kind]()
    for split, labels in (("train", found.train.labels), ("test", found.test.labels)):
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(found.classes):
            raise SettingsError(f"--data {name}: {split} has no images, or labels outside 0..{len(found.classes) - 1}")
    train = found.train.head(data.train_images) if data.train_images else found.train
    test = found.test.head(data.test_images) if data.test_images else found.test
    return replace(found, train=train, test=test)


def _archive(name: str) -> str:
    return {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]


def _cifar(name: str, root: Path) -> ImageData:
    """CIFAR through torchvision, which checks its sums. Raises OSError or RuntimeError if it cannot be had."""
    from torchvision import datasets  # noqa: PLC0415 - two seconds that other data should not pay

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = {train: kind(str(root), train=train) for train in (True, False)}
    except RuntimeError:  # absent, or only partly there
        # torchvision waits without a limit where there is no network.
        head = urllib.request.Request(kind.url, method="HEAD")  # noqa: S310 - torchvision's own https address
        urllib.request.urlopen(head, timeout=10).close()  # noqa: S310
        root.mkdir(parents=True, exist_ok=True)
        parts = {train: kind(str(root), train=train, download=True) for train in (True, False)}
    classes = tuple(parts[True].classes)
    train, test = (ArraySplit(name, parts[t].data, np.array(parts[t].targets)) for t in (True, False))
    return ImageData(name, classes, train, test)


def _digits() -> ImageData:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn; every fifth image is for testing."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second that other data should not pay

    images, labels = load_digits(return_X_y=True)
    gray = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(gray, 3, axis=3), labels.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    train = ArraySplit("digits/train", pixels[~test], labels[~test])
    held_out = ArraySplit("digits/test", pixels[test], labels[test])
    return ImageData("digits", tuple(str(digit) for digit in range(10)), train, held_out, mirrored=False)


def _synthetic(data: Data) -> ImageData:
    """Noise over a pattern per class: as many images of any size as one likes, the same everywhere."""
    size = data.image_size or 32
    place = np.arange(size * size * 3, dtype=np.int64)
    patterns = np.stack([draw(key(label, 77), place, 128) for label in range(10)])

    def split(name: str, images: int, seed: int) -> ArraySplit:
        labels = draw(key(seed, 78), np.arange(images, dtype=np.int64), 10)
        noise = np.stack([draw(key(seed, index, 79), place, 128) for index in range(images)])
        pixels = (patterns[labels] + noise).astype(np.uint8).reshape(images, size, size, 3)
        return ArraySplit(f"synthetic/{name}", pixels, labels)

    train = split("train", data.train_images or SYNTHETIC["train"], 0)
    test = split("test", data.test_images or SYNTHETIC["test"], 1)
    return ImageData("synthetic", tuple(f"pattern {label}" for label in range(10)), train, test)


def _folder(root: Path) -> ImageData:
    """A tree train/<class>/*, test/<class>/* (or val, valid, validation)."""
    if not (root / "train").is_dir():
        raise SettingsError(
            f"--data folder:{root} has no folder 'train'; it should hold train/<class>/* and test/<class>/*"
        )
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if test is None:
        raise SettingsError(f"--data folder:{root} has no folder 'test' (or {', '.join(TEST_NAMES[1:])})")
    classes = tuple(sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir()))
    strange = sorted(entry.name for entry in os.scandir(test) if entry.is_dir() and entry.name not in classes)
    if strange:
        raise SettingsError(f"{test} has classes that {root / 'train'} has not: {', '.join(strange[:5])}")
    return ImageData(str(root), classes, _files(root / "train", classes), _files(test, classes))


def _files(root: Path, classes: tuple[str, ...]) -> FileSplit:
    found = []
    for label, name in enumerate(classes):
        folder = root / name
        inside = os.scandir(folder) if folder.is_dir() else ()
        files = sorted(entry.name for entry in inside if Path(entry.name).suffix.lower() in SUFFIXES)
        found += [(place, label, folder / file) for place, file in enumerate(files)]
    found.sort()  # the first of each class, then the second of each: the first so many images are of all classes
    return FileSplit([path for _, _, path in found], np.array([label for _, label, _ in found], dtype=np.int64))


def _hugging_face(place: str) -> ImageData:
    """Any image-classification data set of the Hugging Face hub, or a local one (a folder of parquet files)."""
    import datasets  # noqa: PLC0415 - a second that other data should not pay

    local = Path(place).expanduser()
    if place.startswith(("/", ".", "~")) and not local.is_dir():
        raise SettingsError(f"--data hf:{place}: there is no such folder")
    try:
        found = datasets.load_dataset(str(local) if local.is_dir() else place)
    except Exception as error:  # noqa: BLE001 - the hub, the file system and parquet each raise their own kinds
        raise SettingsError(f"--data hf:{place} cannot be loaded: {error}") from None
    train = found.get("train")
    if train is None:
        raise SettingsError(f"--data hf:{place} has no split 'train', only {', '.join(found)}")
    image, label = _columns(place, train)
    test = next((found[name] for name in TEST_NAMES if name in found and _labelled(found[name], label)), None)
    if test is None:  # nothing was set aside: every tenth image is
        test = train.select(range(9, len(train), 10))
        train = train.select([row for row in range(len(train)) if row % 10 != 9])
    first, second = _table(f"{place}/train", train, image, label), _table(f"{place}/test", test, image, label)
    names = getattr(train.features[label], "names", None)
    classes = tuple(names or map(str, range(int(first.labels.max()) + 1)))
    return ImageData(place, classes, first, second)


def _labelled(table: Any, label: str) -> bool:
    """Whether the split has its labels: some publish their test images with -1 for every label."""
    return label in table.features and len(table) > 0 and table[0][label] != -1


def _columns(place: str, table: Any) -> tuple[str, str]:
    """Names of the image and the label column."""
    from datasets import ClassLabel, Image  # noqa: PLC0415

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name in ("label", "labels", "fine_label") if name in features]
    labels += [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not images or not labels:
        raise SettingsError(f"--data hf:{place} needs an image and a label column; it has {', '.join(features)}")
    return images[0], labels[0]


def _table(name: str, table: Any, image: str, label: str) -> Split:
    from datasets import Image  # noqa: PLC0415

    values = table[label][:]
    if not all(isinstance(value, int) for value in values):
        raise SettingsError(f"{name}, column '{label}': every label is to be a class number, and one is not")
    labels = np.array(values, dtype=np.int64)
    encoded = table.select_columns([image]).cast_column(image, Image(decode=False))
    return TableSplit(name, encoded, image, labels)
