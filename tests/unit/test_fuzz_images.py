"""Damaged images, tables and folders: each is used, or refused by a message that names its place. Nothing else."""

import io
import os
import random
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrib.images.cropping import centre, random_box
from distrib.images.decoding import ImageError, cropped, pixels, rgb
from distrib.images.hashing import key
from distrib.images.sources import load
from distrib.settings import Data, SettingsError

SEVERAL = {"save_all": True, "append_images": [Image.new("RGB", (24, 20), (0, 99, 0))]}
EXIF = {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"}  # orientation 3

# The forms in which each kind is damaged: mode and options.
FORMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "JPEG": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", EXIF)],
    "PNG": [("RGB", {}), ("RGBA", {}), ("LA", {}), ("P", {"transparency": 1}), ("1", {}), ("I;16", {}), ("RGB", EXIF)],
    "GIF": [("P", {}), ("P", {"transparency": 1})],
    "BMP": [("RGB", {}), ("L", {}), ("1", {})],
    "WEBP": [("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGB", EXIF)],
    "TIFF": [("RGBA", {}), ("P", {}), ("I;16", {}), ("1", {"compression": "group4"})],
    "PPM": [("RGB", {}), ("L", {}), ("1", {}), ("I", {})],
}
FORMS["TIFF"] += [("RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
for several in ("PNG", "GIF", "WEBP", "TIFF"):
    FORMS[several].append(("RGB", SEVERAL))


KINDS = list(FORMS)


def whole(kind: str) -> list[bytes]:
    """Small images of that kind in its several forms."""
    ramp = np.linspace(0, 255, 24 * 20 * 3).reshape(20, 24, 3).astype(np.uint8)
    made = []
    for mode, options in FORMS[kind]:
        stream = io.BytesIO()
        deep = mode.startswith("I")
        image = Image.fromarray(ramp[..., 0].astype(np.uint16) * 257) if deep else Image.fromarray(ramp)
        image.convert(mode).save(stream, kind, **options)
        made.append(stream.getvalue())
    return made


def flipped(content: bytes, draw: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def cut_short(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def inserted(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(draw.randint(1, 20)) + content[place:]


def removed(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + content[place + draw.randint(1, 30) :]


def other_header(content: bytes, draw: random.Random) -> bytes:
    place, extreme = draw.randrange(min(64, len(content))), draw.choice([b"\xff" * 4, bytes(4), draw.randbytes(4)])
    return content[:place] + extreme + content[place + 4 :]


def swapped(content: bytes, draw: random.Random) -> bytes:
    a, b, c, d = sorted(draw.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def noise_behind_its_first_bytes(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, 40)] + draw.randbytes(draw.randint(0, 200))


DAMAGES = (flipped, cut_short, inserted, removed, other_header, swapped, noise_behind_its_first_bytes)


def attempt(call: Callable[[], Any], refusal: type[Exception], place: str) -> Any:
    """What it returns, or None if it refuses by a message that names the place."""
    try:
        return call()
    except refusal as error:
        told = str(error)
    assert place in told, f"{place} is not named: {told}"
    return None


def outcome(content: bytes, number: int) -> bool:
    """Whether an image came of it. Fails if what came is not what should, or something else happens."""
    image = attempt(lambda: rgb(content, f"row {number}"), ImageError, f"row {number} ")
    if image is None:
        return False
    assert image.mode == "RGB"
    choose = partial(random_box, folded=key(number), index=number)
    part = attempt(lambda: cropped(content, f"row {number}", choose, 8), ImageError, f"row {number} ")
    assert part is not None, "what can be decoded whole cannot be decoded in part"
    for square in (pixels(centre(image, 8)), part):
        assert square.shape == (8, 8, 3)
        assert square.dtype == np.uint8
    return True


def endure(kind: str, seed: int, count: int) -> int:
    """Damage images so many times; return how many could still be used."""
    draw, images, good = random.Random(f"{kind} {seed}"), whole(kind), 0
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for number in range(count):
            damage = draw.choice(DAMAGES)
            content = damage(draw.choice(images), draw)
            try:
                good += outcome(content, number)
            except BaseException as error:
                error.add_note(f"{kind} image {number} of seed {seed}, {damage.__name__}: {content!r}")
                raise
    assert [str(warning.message) for warning in heard] == []
    return good


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_are_used(kind: str) -> None:
    assert all(outcome(content, 0) for content in whole(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_images_are_used_or_refused(kind: str) -> None:
    good = endure(kind, seed=0, count=2500)
    assert 100 < good < 2400  # neither is rare


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_images_are_used_or_refused(kind: str, seed: int) -> None:
    endure(kind, seed=seed, count=20_000)


def used(place: str) -> bool:
    """Whether that data set can be loaded, and every image of it decoded or refused by name."""
    data = attempt(lambda: load(place, Data(data=place)), SettingsError, place.partition(":")[2])
    if data is None:
        return False
    for split in (data.train, data.test):
        assert len(split.fingerprint()) == 64
        assert 0 <= split.labels.min() <= split.labels.max() < len(data.classes)
        for index in range(len(split.labels)):
            image = attempt(partial(split.image, index), ImageError, split.where(index))
            assert image is None or image.mode == "RGB"
    return True


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small table of images, as it lies on disk."""
    import datasets

    datasets.disable_progress_bars()
    cells = [{"bytes": content, "path": f"{kind}.x"} for kind in KINDS for content in whole(kind)[:2]]
    names = datasets.ClassLabel(names=["cat", "dog"])
    columns = {"image": cells, "label": [row % 2 for row in range(len(cells))]}
    features = datasets.Features({"image": datasets.Image(), "label": names})
    path = tmp_path_factory.mktemp("whole") / "train.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path.read_bytes()


def endure_tables(content: bytes, root: Path, seed: int, count: int) -> int:
    draw, good = random.Random(f"table {seed}"), 0
    for number in range(count):
        folder = root / str(number)
        folder.mkdir()
        damage = draw.choice(DAMAGES)
        name = draw.choice(["train.parquet", "train-00000-of-00001.parquet", "data.parquet"])
        (folder / name).write_bytes(damage(content, draw))
        try:
            good += used(f"hf:{folder}")
        except BaseException as error:
            error.add_note(f"table {number} of seed {seed}, {damage.__name__}")
            raise
        shutil.rmtree(folder)
    return good


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("cache")
def test_damaged_tables_are_used_or_refused(parquet: bytes, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "train.parquet").write_bytes(parquet)
    assert used(f"hf:{tmp_path / 'whole'}")
    good = endure_tables(parquet, tmp_path, seed=0, count=200)
    assert 10 < good < 190


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cache")
def test_many_damaged_tables_are_used_or_refused(parquet: bytes, tmp_path: Path) -> None:
    endure_tables(parquet, tmp_path, seed=1, count=1000)


ENTRIES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("words"),
    lambda path: path.mkdir(),
    os.mkfifo,
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.parent),
]
NAMES = [
    "a.jpg",
    "b.PNG",
    "c.gif",
    ".hidden.png",
    "words.txt",
    "no suffix",
    "two\nlines.png",
    "caf\udce9.jpg",
    "\u732b.png",
]


def plant(root: Path, draw: random.Random, images: list[bytes], depth: int = 0) -> None:
    """Grow what may pass for a tree of images: sound on the whole, but anything may stand in any place."""
    root.mkdir()
    if depth == 2:
        for name in draw.sample(NAMES, draw.randint(1, 6)):
            if draw.random() < 0.3:
                draw.choice(ENTRIES)(root / name)
            else:
                (root / name).write_bytes(draw.choice(images))
        return
    names = [["train", draw.choice(["test", "val", "valid"]), "other"], ["cat", "dog", ".git", "emu"]][depth]
    for name in names:
        if draw.random() < 0.08:
            draw.choice(ENTRIES)(root / name)
        elif draw.random() < 0.97:
            plant(root / name, draw, images, depth + 1)


def test_odd_folders_are_used_or_refused(tmp_path: Path) -> None:
    draw, good = random.Random("folders 0"), 0
    images = [content for kind in ("JPEG", "PNG", "GIF") for content in whole(kind)]
    for number in range(300):
        plant(tmp_path / str(number), draw, images)
        try:
            good += used(f"folder:{tmp_path / str(number)}")
        except BaseException as error:
            error.add_note(f"folder {number}")
            raise
    assert 50 < good < 250
