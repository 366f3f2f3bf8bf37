"""Where images come from: each ``--data`` value gives a data set, or a message that says what to do."""

import importlib.util
import os
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distrib.images import packed
from distrib.images.hashing import draw, key
from distrib.images.splits import ArraySplit, FileSplit, ImageData, Labels, TableSplit
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
    if os.path.isfile(data.data_root):  # noqa: PTH113 - Path.is_file raises where it may not look
        raise SettingsError(f"--data-root {data.data_root} is a file: name a folder that holds the data, or is to")
    try:
        _cifar(name, data.data_root)
    except SettingsError:
        if data.data != "auto":
            raise
        return "digits"
    return name


def load(name: str, data: Data) -> ImageData:
    """Load the data set that :func:`locate` gave, cut to ``--train-images`` and ``--test-images``.

    Raises:
        SettingsError: it is not there, cannot be read, or is no data set to learn classes from.
    """
    kind, _, place = name.partition(":")
    loaders: dict[str, Callable[[], ImageData]] = {
        "digits": _digits,
        "synthetic": lambda: _synthetic(data),
        "cifar10": lambda: _cifar(name, data.data_root),
        "cifar100": lambda: _cifar(name, data.data_root),
        "folder": lambda: _folder(_path(place)),
        "hf": lambda: _hugging_face(place),
        "pack": lambda: packed.load(_path(place)),
    }
    try:
        found = loaders[kind]()
    except OSError as error:  # it may not be read, or its links go round in a circle
        raise SettingsError(f"--data {name} cannot be read: {error}") from None
    for split, labels in (("train", found.train.labels), ("test", found.test.labels)):
        if len(labels) == 0:
            raise SettingsError(f"--data {name}: {split} has no images")
        if labels.max() >= len(found.classes):
            raise SettingsError(
                f"--data {name}: {split} has the label {labels.max()}, but the training images have "
                f"{len(found.classes)} classes, from 0 to {len(found.classes) - 1}"
            )
    train = found.train.head(data.train_images) if data.train_images else found.train
    test = found.test.head(data.test_images) if data.test_images else found.test
    return replace(found, train=train, test=test)


def _cifar(name: str, root: Path) -> ImageData:
    """CIFAR through torchvision, which unpickles nothing but what has the MD5 sums that it knows."""
    from torchvision import datasets  # noqa: PLC0415 - two seconds that other data should not pay

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = _halves(kind, root)
    except (OSError, RuntimeError, HTTPException) as error:
        raise SettingsError(
            f"--data {name} is not in {root.absolute()} and could not be downloaded ({error}). Put "
            f"'{kind.base_folder}' there, point --data-root at the folder that holds it, name a local copy with "
            "--data hf:PATH or --data folder:PATH, or use --data digits, which needs no download"
        ) from None
    train, test = (ArraySplit(name, part.data, np.array(part.targets)) for part in parts)
    return ImageData(name, tuple(parts[0].classes), train, test)


def _halves(kind: Any, root: Path) -> list[Any]:
    """Training and test images of that class of torchvision's, downloaded if they are absent or damaged."""
    try:
        return [kind(str(root), train=train) for train in (True, False)]
    except RuntimeError:  # absent, or only partly there
        # torchvision waits without a limit where there is no network.
        head = urllib.request.Request(kind.url, method="HEAD")  # noqa: S310 - torchvision's own https address
        urllib.request.urlopen(head, timeout=10).close()  # noqa: S310
        root.mkdir(parents=True, exist_ok=True)
        return [kind(str(root), train=train, download=True) for train in (True, False)]


def _digits() -> ImageData:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn; every fifth image is for testing."""
    # Read from its file: to import scikit-learn takes seconds, in each process.
    found = importlib.util.find_spec("sklearn")
    assert found is not None, "scikit-learn is one of our dependencies"
    file = Path(str(found.origin)).with_name("datasets") / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",")
    gray = np.round(rows[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(gray, 3, axis=3), rows[:, -1].astype(np.int64)
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
        pixels = np.empty((images, size, size, 3), dtype=np.uint8)
        for index, image in enumerate(pixels):  # one by one: what is drawn takes eight times the memory of bytes
            noise = draw(key(seed, index, 79), place, 128)
            image[:] = (patterns[labels[index]] + noise).reshape(image.shape)
        return ArraySplit(f"synthetic/{name}", pixels, labels)

    train = split("train", data.train_images or SYNTHETIC["train"], 0)
    test = split("test", data.test_images or SYNTHETIC["test"], 1)
    return ImageData("synthetic", tuple(f"pattern {label}" for label in range(10)), train, test)


def _path(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError as error:  # ~somebody whom this system does not know
        raise SettingsError(f"--data: {place} cannot be found: {error}") from None


def _folder(root: Path) -> ImageData:
    """A tree train/<class>/*, test/<class>/* (or val, valid, validation). Names that begin with a dot do not count."""
    shape = f"--data folder:{root} should hold train/<class>/* and test/<class>/*"
    if not root.is_dir():
        raise SettingsError(f"{root} is no folder: {shape}")
    if not (root / "train").is_dir():
        raise SettingsError(f"{root} has no folder 'train': {shape}")
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if test is None:
        raise SettingsError(f"{root} has no folder 'test' (or {', '.join(TEST_NAMES[1:])}): {shape}")
    classes = _classes(root / "train")
    if not classes:
        raise SettingsError(f"{root / 'train'} has no folders of classes: {shape}")
    strange = [name for name in _classes(test) if name not in classes]
    if strange:
        raise SettingsError(f"{test} has classes that {root / 'train'} has not: {', '.join(strange[:5])}")
    train = _files(root / "train", classes)
    counts = np.bincount(train.labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise SettingsError(
            f"{root / 'train'} has classes without images: {', '.join(empty[:5])}. Remove their folders or fill them; "
            f"images end in {', '.join(sorted(SUFFIXES))}"
        )
    return ImageData(str(root), classes, train, _files(test, classes))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the folders of classes, in order."""
    names = [entry.name for entry in _entries(root) if entry.is_dir()]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:  # nobody could print what a network sees
            raise SettingsError(f"{root} has a class whose name is no text, {name!a}: rename its folder") from None
    return tuple(names)


def _files(root: Path, classes: tuple[str, ...]) -> FileSplit:
    """The files of all classes: the first of each, then the second of each, so that the first so many are of all."""
    folders = [root / name for name in classes]
    listed = [_images_in(folder) for folder in folders]
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in listed])
    places = np.concatenate([np.arange(len(names)) for names in listed])
    order = np.lexsort((labels, places))
    names = np.array(list(chain.from_iterable(listed)), dtype=object)  # a list would be asked by an int for each
    return FileSplit(folders, names[order].tolist(), labels[order])


def _images_in(folder: Path) -> list[str]:
    """Names of the images of a class, in order; of a class that is not there, none."""
    return [entry.name for entry in _entries(folder) if _counts(entry)] if folder.is_dir() else []


def _counts(entry: os.DirEntry[str]) -> bool:
    """Whether it is to be an image: no folder, pipe or device. A link is, lest a broken one be left out in silence.

    Of a Path, Python would keep the name for as long as it lives: with millions each takes longer than the one before.
    """
    suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122
    return suffix.lower() in SUFFIXES and (entry.is_symlink() or entry.is_file())


def _hugging_face(place: str) -> ImageData:
    """Any image-classification data set of the Hugging Face hub, or a local one (a folder of parquet files).

    The library reads data alone: it refuses a data set that comes with a script, and runs none.
    """
    import datasets  # noqa: PLC0415 - a second that other data should not pay

    local = _path(place)
    if not local.is_dir() and (place.startswith(("/", ".", "~")) or local.exists()):
        raise SettingsError(f"--data hf:{place}: there is no such folder (name the folder, not a file in it)")
    try:
        found = datasets.load_dataset(str(local) if local.is_dir() else place)
    except Exception as error:  # noqa: BLE001 - the hub, the file system and parquet each raise their own kinds
        raise SettingsError(f"--data hf:{place} cannot be loaded: {error.__cause__ or error}") from None
    train = found.get("train")
    if train is None:
        raise SettingsError(f"--data hf:{place} has no split 'train', only {', '.join(found)}")
    image, label = _columns(place, train)
    names = getattr(train.features[label], "names", None)
    if names and local.is_dir():
        _check_names(local, label, names)
    test = next((found[name] for name in TEST_NAMES if name in found and _usable(found[name], image, label)), None)
    first = _table(f"{place}/train", train, image, label)
    if test is None:  # nothing was set aside: every tenth image is
        aside = first.rows % 10 == 9
        if not aside.any():
            raise SettingsError(
                f"--data hf:{place} has no labelled test images, nor 10 of which one could be set aside"
            )
        first, second = first.part(~aside), first.part(aside)
    else:
        second = _table(f"{place}/test", test, image, label)
    classes = tuple(names or map(str, range(_count(place, first.labels))))
    return ImageData(place, classes, first, second)


def _check_names(folder: Path, label: str, names: list[str]) -> None:
    """Refuse tables that name their classes in another order: the library takes the first one's for all of them.

    Raises:
        SettingsError: names the table.
    """
    import datasets  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    for file in sorted(folder.rglob("*.parquet")):
        try:
            schema = parquet.read_schema(file)
        except (OSError, pa.ArrowException):
            continue  # it was not read, or there would have been an error
        own = getattr(datasets.Features.from_arrow_schema(schema).get(label), "names", names)
        if own != names:
            raise SettingsError(
                f"{file} names the classes of '{label}' {', '.join(own[:5])}, ... where training images have "
                f"{', '.join(names[:5])}, ...: write all tables with the same names in the same order"
            )


def _usable(table: Any, image: str, label: str) -> bool:
    """Whether the split has its labels: some publish their test images with -1 for every label."""
    if not {image, label} <= set(table.features) or len(table) == 0:
        return False
    return bool(table.select_columns([label])[0][label] != -1)  # without a look at the image, which may be damaged


def _count(place: str, labels: Labels) -> int:
    """How many classes there are if nobody says: one more than the highest label."""
    highest = int(labels.max())
    if highest >= len(labels):
        raise SettingsError(
            f"--data hf:{place} has the label {highest} but only {len(labels)} training images: labels are to be "
            "numbers of classes, counted from 0"
        )
    return highest + 1


def _columns(place: str, table: Any) -> tuple[str, str]:
    """Names of the image and the label column."""
    from datasets import ClassLabel, Image  # noqa: PLC0415

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name in ("label", "labels", "fine_label") if name in features]
    labels += [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not images or not labels:
        raise SettingsError(
            f"--data hf:{place} needs a column of the type Image and a label column; it has {', '.join(features)}"
        )
    return images[0], labels[0]


def _table(name: str, table: Any, image: str, label: str) -> TableSplit:
    from datasets import Image  # noqa: PLC0415

    values = table[label][:]
    for row, value in enumerate(values):
        if not isinstance(value, int) or not 0 <= value < 2**63:
            raise SettingsError(
                f"row {row} of {name}, column '{label}', holds {value!r}: a class number, from 0, is due"
            )
    labels = np.array(values, dtype=np.int64)
    encoded = table.select_columns([image]).cast_column(image, Image(decode=False))
    return TableSplit(name, encoded, image, np.arange(len(labels)), labels)
