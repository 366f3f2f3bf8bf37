"""Runs on packed data sets are those on what was packed."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.launching import hashes, run, train, updates


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images, and the same packed."""
    root = tmp_path_factory.mktemp("packed")
    for split, count in (("train", 48), ("test", 16)):
        for number in range(count):
            folder = root / "images" / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            small = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((90 + number, 110), Image.Resampling.BICUBIC)
            image.save(folder / f"{number:02}.png")
    pack = [sys.executable, "-m", "distrib", "pack", str(root / "raw"), "--data", f"folder:{root / 'images'}"]
    run([*pack, "--form", "raw"])
    return root


def weights(place, name, data, *flags, world=1):
    quick = ("--model", "simplecnn", "--width", 8, "--image-size", 72, "--batch-size", 8, "--epochs", 2)
    folder = place / "runs" / name
    train(*quick, "--data", data, *flags, "--out", folder.parent, "--name", name, world=world)
    assert len(updates(folder)) == 12
    return hashes(folder)["model.safetensors"]


def test_raw_gives_the_run_of_the_folder(place):
    there = weights(place, "folder", f"folder:{place / 'images'}")
    assert weights(place, "raw", f"pack:{place / 'raw'}", "--workers", 1) == there
    assert weights(place, "raw 2", f"pack:{place / 'raw'}", "--workers", 2) == there


def test_an_exact_run_is_the_same_on_two_processes(place):
    flags = ("--exact", "--virtual-ranks", 2)
    alone = weights(place, "alone", f"pack:{place / 'raw'}", *flags)
    assert weights(place, "together", f"pack:{place / 'raw'}", *flags, world=2) == alone


def test_a_pack_may_move(place):
    before = weights(place, "moved", f"pack:{place / 'raw'}")
    shutil.copytree(place / "raw", place / "elsewhere")
    assert weights(place, "moved", f"pack:{place / 'elsewhere'}") == before
