import gc
import json
import os
import pickle
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from distrib.images import packed, packing
from distrib.images.cropping import random_box
from distrib.images.decoding import pixels
from distrib.images.hashing import key
from distrib.images.sources import load
from distrib.settings import Data, SettingsError

COUNT = {"train": 14, "test": 6}


def photograph(seed: int, width: int, height: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of several sizes, as PNG."""
    for split, count in COUNT.items():
        for number in range(count):
            place = tmp_path / "images" / split / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            photograph(number, 90 + 7 * number, 130 - 4 * number).save(place / f"{number:02}.png")
    return tmp_path / "images"


def pack(folder: Path, name: str, *flags: str, expect: int = 0) -> Path:
    out = folder.parent / name
    assert packing.main([str(out), "--data", f"folder:{folder}", "--workers", "2", *flags]) == expect
    return out


def opened(place: Path, kind: str = "pack") -> packed.ImageData:
    return load(f"{kind}:{place}", Data(data=f"{kind}:{place}"))


def test_raw_keeps_every_pixel_of_images_that_are_small_enough(folder: Path) -> None:
    there, here = opened(folder, "folder"), opened(pack(folder, "raw", "--form", "raw", "--side", "500"))
    assert here.classes == there.classes
    for before, after in ((there.train, here.train), (there.test, here.test)):
        assert after.labels.tolist() == before.labels.tolist()
        for index in range(len(before.labels)):
            assert np.array_equal(pixels(after.image(index)), pixels(before.image(index)))
            choose = partial(random_box, folded=key(1), index=index)
            assert np.array_equal(after.crop(index, choose, 32), before.crop(index, choose, 32))


def test_jpeg_is_close_to_the_image(folder: Path) -> None:
    there, here = opened(folder, "folder"), opened(pack(folder, "jpeg", "--side", "500", "--quality", "95"))
    for index in range(COUNT["train"]):
        before, after = pixels(there.train.image(index)), pixels(here.train.image(index))
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).mean() < 6


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_images_are_no_larger_than_asked(folder: Path, form: str) -> None:
    here = opened(pack(folder, "small", "--form", form, "--side", "64"))
    assert {min(here.train.image(index).size) for index in range(COUNT["train"])} == {64}
    before = opened(folder, "folder").train.image(0)
    after = here.train.image(0)
    assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.02)


def test_images_are_never_enlarged(folder: Path) -> None:
    assert packing.shrunk(photograph(0, 50, 40), 64).size == (50, 40)


def test_the_bytes_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    one, two = (pack(folder, f"by {count}", "--workers", str(count)) for count in (1, 2))
    assert (one / "pack.json").read_text() == (two / "pack.json").read_text()
    assert (one / "train-00000.bin").read_bytes() == (two / "train-00000.bin").read_bytes()


def test_shards_begin_anew_when_they_are_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD", 60_000)
    here = opened(pack(folder, "sharded", "--form", "raw"))
    assert len(list((folder.parent / "sharded").glob("train-*.bin"))) > 3
    there = opened(folder, "folder")
    for index in range(COUNT["train"]):
        assert np.array_equal(pixels(here.train.image(index)), pixels(there.train.image(index)))


def test_the_first_images_are_those_of_the_folder(folder: Path) -> None:
    place = pack(folder, "raw", "--form", "raw")
    here = load(f"pack:{place}", Data(data=f"pack:{place}", train_images=3))
    assert here.train.labels.tolist() == opened(folder, "folder").train.labels[:3].tolist()


def test_the_fingerprint_tells_other_images(folder: Path) -> None:
    first, again = (opened(pack(folder, name)).train for name in ("first", "again"))
    assert first.fingerprint() == again.fingerprint()
    assert first.head(3).fingerprint() != first.fingerprint()
    photograph(99, 90, 130).save(folder / "train/cat/00.png")
    assert opened(pack(folder, "changed")).train.fingerprint() != first.fingerprint()
    assert opened(pack(folder, "raw", "--form", "raw")).train.fingerprint() != first.fingerprint()


def test_digits_stay_digits(tmp_path: Path) -> None:
    assert packing.main([str(tmp_path / "digits"), "--data", "digits", "--form", "raw"]) == 0
    here, there = opened(tmp_path / "digits"), load("digits", Data(data="digits"))
    assert not here.mirrored
    assert np.array_equal(pixels(here.test.image(5)), pixels(there.test.image(5)))


def test_a_check_finds_a_changed_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = pack(folder, "packed")
    assert packing.main([str(place), "--check"]) == 0
    assert "is whole" in capsys.readouterr().out
    shard = place / "test-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert packing.main([str(place), "--check"]) == 1
    assert f"{shard} does not hold what was packed" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "told"), [("cut", "has 5 bytes"), ("gone", "is missing")])
def test_a_shard_that_is_cut_off_is_refused(folder: Path, damage: str, told: str) -> None:
    place = pack(folder, "packed")
    shard = place / "train-00000.bin"
    if damage == "cut":
        shard.write_bytes(b"short")
    else:
        shard.unlink()
    with pytest.raises(SettingsError, match=f"train-00000.bin {told}.*pack the data set again"):
        opened(place)


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no packed data set"):
        opened(tmp_path)
    for content in ({"version": 99}, {"version": 1, "name": "some"}, [], "text"):
        (tmp_path / "pack.json").write_text(json.dumps(content))
        with pytest.raises(SettingsError, match=r"another version of distrib, or its pack\.json is damaged"):
            opened(tmp_path)


def test_a_damaged_index_is_refused(folder: Path) -> None:
    place = pack(folder, "packed")
    whole = (place / "train.npy").read_bytes()
    for at in (0, 9, 40, 70, 127, 200):  # magic, length of the header, its text, and rows
        content = bytearray(whole)
        content[at] ^= 1
        (place / "train.npy").write_bytes(content)
        with pytest.raises(SettingsError, match=r"train\.npy is damaged: pack the data set again"):
            opened(place)


def test_other_folders_stay(folder: Path) -> None:
    other = folder.parent / "mine.partial"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    pack(folder, "mine")
    assert (other / "thesis.txt").read_text() == "precious"


def test_shards_that_were_looked_into_hold_no_file_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD", 60_000)
    place = pack(folder, "many", "--form", "raw")
    split = opened(place).train
    for index in range(len(split.labels)):
        split.image(index)
    held = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [file for file in held if file.startswith(f"{place}") and file.endswith(".bin")]


def test_a_split_is_sent_to_a_process_without_its_shards(folder: Path) -> None:
    split = opened(pack(folder, "packed")).train
    before = len(pickle.dumps(split))
    first = pixels(split.image(0))
    assert len(pickle.dumps(split)) == before
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(split)).image(0)), first)  # noqa: S301 - our own


def test_an_image_too_long_for_jpeg_is_told_like_one_that_is_bad(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panorama = folder / "train/dog/05.png"
    Image.new("RGB", (65501, 9)).save(panorama)
    pack(folder, "packed", expect=1)
    assert f"{panorama} cannot be stored as JPEG of 65501 x 9 pixels" in capsys.readouterr().err
    out = pack(folder, "packed", "--on-bad-image", "skip")
    assert len(opened(out).train.labels) == COUNT["train"] - 1


def test_what_auto_stands_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(packing.sources, "locate", lambda _: "digits")
    assert packing.main([str(tmp_path / "out"), "--data", "auto"]) == 0
    assert "--data auto is digits here" in capsys.readouterr().out


def test_a_bad_image_ends_the_packing_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "train/dog/05.png"
    bad.write_bytes(b"no image")
    out = pack(folder, "packed", expect=1)
    assert str(bad) in capsys.readouterr().err
    assert not out.exists()
    assert not list(out.parent.glob("*packed*"))
    pack(folder, "packed", "--on-bad-image", "skip")
    told = capsys.readouterr().out
    assert f"packed {COUNT['train'] - 1} training and {COUNT['test']} test images" in told
    assert f"left out: {bad}" in told
    assert len(opened(out).train.labels) == COUNT["train"] - 1


def test_a_process_that_is_lost_ends_the_packing(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(packing, "shrunk", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    gc.collect()
    gc.disable()
    try:
        out = pack(folder, "packed", expect=1)
        # A loader's pipes that only the collector finds are closed by it and by their threads.
        assert not [found for found in gc.get_objects() if type(found) is _MultiProcessingDataLoaderIter]
    finally:
        gc.enable()
    assert "a process that decodes images was lost" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_there_is_not_written_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pack(folder, "packed")
    pack(folder, "packed", expect=2)
    assert f"{out} exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--data says what to pack"),
        (["--data", "digits", "--check"], "leave --data out"),
        (["--data", "digits", "--side", "4"], "--side is at least 8"),
        (["--data", "digits", "--quality", "96"], r"--quality lies in"),
        (["--data", "digits", "--workers", "0"], "--workers is at least 1"),
        (["--data", "folder:/nowhere"], "is no folder"),
        (["--data", "nothing"], "is unknown"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list, told: str) -> None:
    code = 0
    try:
        code = packing.main([str(tmp_path / "out"), *flags])
    except SystemExit as left:  # from the parser of flags
        code = left.code
    assert code == 2
    assert told in capsys.readouterr().err
