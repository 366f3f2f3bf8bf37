import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distrib import command
from distrib.images import sources
from distrib.images.decoding import ImageError
from distrib.images.splits import ArraySplit, ImageData
from distrib.insight import readiness
from distrib.insight.machine import NOTE, OK, PROBLEM
from distrib.insight.readiness import Prospect, batch, chart, data_set, facts, locate, run_folder, tracking
from distrib.settings import (
    Augmentation,
    Compute,
    Data,
    Lifecycle,
    Model,
    Optimization,
    Schedule,
    Settings,
    SettingsError,
    Tracking,
)
from distrib.zoo import registry

DIGITS = Settings(model=Model(model="simplecnn", width=4), data=Data(data="digits"))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Addresses that were asked for; none answers."""
    found: list[str] = []
    monkeypatch.setattr(readiness, "unreachable", lambda url: found.append(url) or "no route")
    return found


def test_a_data_set_that_is_there_is_counted(asked) -> None:
    found = []
    assert data_set(Data(data="digits"), None, found) == [
        (OK, "digits: 1,438 training and 359 test images, 10 classes")
    ]
    assert len(found) == 1
    assert asked == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_data_that_is_neither_here_nor_to_be_had_is_refused(tmp_path, asked, name) -> None:
    with pytest.raises(SettingsError, match=rf"--data {name} is not in .*none.* \(no route\).*--data digits"):
        data_set(Data(data=name, data_root=tmp_path / "none"), None, [])
    assert [url.partition("/~")[0] for url in asked] == ["https://www.cs.toronto.edu"]
    assert not (tmp_path / "none").exists()


def test_data_that_can_be_downloaded_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readiness, "unreachable", lambda _: None)
    found = []
    ((level, text),) = data_set(Data(data="auto", data_root=tmp_path / "none"), None, found)
    assert level == NOTE
    assert "training first downloads it" in text
    assert found == []
    assert not (tmp_path / "none").exists()


def test_auto_tells_what_it_falls_back_to(tmp_path, asked) -> None:
    place, ((level, text),) = locate(Data(data_root=tmp_path))
    assert (place, level) == ("digits", NOTE)
    assert "training takes the embedded 'digits'" in text


def test_a_hub_data_set_is_looked_for_in_the_cache_alone(monkeypatch, asked) -> None:
    monkeypatch.setattr(readiness, "converted", lambda place: place == "somebody/cached")
    assert locate(Data(data="hf:somebody/cached")) == ("hf:somebody/cached", [])
    with pytest.raises(SettingsError, match="hf:nobody/nothing is not in the cache"):
        locate(Data(data="hf:nobody/nothing"))
    assert asked == ["https://huggingface.co"]


def test_a_local_table_is_not_converted_for_a_look(tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {"image": [Image.new("RGB", (8, 8), (9 * n,) * 3) for n in range(20)], "label": [0, 1] * 10}
    (tmp_path / "table").mkdir()
    table = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    table.to_parquet(tmp_path / "table" / "train-00000-of-00001.parquet")
    asked = Data(data=f"hf:{tmp_path / 'table'}")
    place, ((level, text),) = locate(asked)
    assert (place, level) == (None, NOTE)
    assert "training first converts it" in text
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    sources.load(asked.data, asked)
    assert locate(asked) == (asked.data, [])


def test_a_table_that_is_not_there_is_refused_by_its_path(asked) -> None:
    with pytest.raises(SettingsError, match="hf:/nowhere/at/all"):
        data_set(Data(data="hf:/nowhere/at/all"), None, [])
    assert asked == []


def test_images_that_cannot_be_decoded_are_found(tmp_path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "only").mkdir(parents=True)
        (tmp_path / split / "only" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        data_set(Data(data=f"folder:{tmp_path}"), None, [])


def test_what_ranks_compare_sees_one_pixel() -> None:
    def data(value: int) -> ImageData:
        pixels = np.zeros((4, 8, 8, 3), dtype=np.uint8)
        pixels[3, 7, 7, 2] = value
        split = ArraySplit("some", pixels, np.zeros(4, dtype=np.int64))
        return ImageData("some", ("only",), split, split)

    assert facts(data(0)) == facts(data(0))
    assert facts(data(0)) != facts(data(1))
    assert facts(data(0))["training images"] == 4


def test_a_batch_is_told_with_the_numbers_that_can_share_it(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    expected = "12 images an update, 4 for each of 3 processes; can be shared by this many processes: 1, 2, 3, 4, 6, 12"
    assert batch(of(12), 3) == [(OK, expected)]
    with pytest.raises(SettingsError, match=r"--batch-size 12 .* cannot be shared equally by 5"):
        batch(of(12), 5)


def of(size: int, **compute) -> Settings:
    return replace(DIGITS, optimization=Optimization(batch_size=size), compute=Compute(**compute))


def test_weights_to_begin_with_are_looked_at(tmp_path) -> None:
    digits = sources.load("digits", DIGITS.data)
    begun = replace(DIGITS, lifecycle=Lifecycle(init=tmp_path / "some.safetensors"))
    network = registry.build(DIGITS.model, classes=10, image_size=8)
    save_file(network.state_dict(), tmp_path / "some.safetensors")
    assert Prospect.of(begun, digits, 1).size == 8
    wider = replace(begun, model=Model(model="simplecnn", width=8))
    with pytest.raises(SettingsError, match=r"are of another network: stem\.0\.weight is \(4, 3, 3, 3\), not \(8, 3"):
        Prospect.of(wider, digits, 1)


def test_an_exact_batch_is_shared_by_what_divides_the_virtual_ranks(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    ((level, text),) = batch(of(96, exact=True), 2)
    assert level == OK
    assert text.endswith("by this many processes: 1, 2, 4, 8")
    with pytest.raises(SettingsError, match="--virtual-ranks 8 cannot be divided by 3 processes"):
        batch(of(96, exact=True), 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    _, (level, text) = batch(of(96, exact=True), 1)
    assert level == NOTE
    assert "take --virtual-ranks and a batch that are multiples of 3" in text


def test_gpus_that_cannot_share_the_batch_are_noted(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert [level for level, _ in batch(of(12), 1)] == [OK, NOTE]
    assert [level for level, _ in batch(of(16), 1)] == [OK]
    assert [level for level, _ in batch(of(12), 4)] == [OK]  # started with another number on purpose


@pytest.mark.parametrize(
    ("choice", "key", "fault", "expected"),
    [
        ("off", "secret", None, (OK, "off")),
        ("auto", "", None, (OK, "off")),
        ("offline", "", None, (OK, "offline: `wandb sync`")),
        ("online", "", None, (NOTE, "no key for api.wandb.ai is configured (`wandb login`)")),
        ("online", "secret", "no route", (NOTE, "online, but api.wandb.ai cannot be reached (no route)")),
        ("auto", "secret", None, (OK, "online: api.wandb.ai answers")),
    ],
)
def test_trouble_with_wandb_is_but_a_note(monkeypatch, tmp_path, choice, key, fault, expected) -> None:
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(readiness, "unreachable", lambda _: fault)
    ((level, text),) = tracking(Settings(tracking=Tracking(wandb=choice)))
    assert level == expected[0]
    assert expected[1] in text
    assert "secret" not in text


def a_run(folder: Path, *, finished: bool) -> None:
    """What is left of a run after update 40."""
    checkpoint = folder / "checkpoints" / "update-000000040"
    checkpoint.mkdir(parents=True)
    (folder / "settings.yaml").write_text(command.dump(DIGITS))
    state = {"update": 40, "epoch": 4, "finished": finished, "data": {}, "test_top1": 0.5}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(json.dumps(digests))


def named(out: Path, settings: Settings = DIGITS) -> Settings:
    return replace(settings, lifecycle=Lifecycle(name="mine", out=out))


def test_a_run_folder_is_told_apart(tmp_path) -> None:
    assert run_folder(replace(DIGITS, lifecycle=Lifecycle(out=tmp_path))) == [(OK, f"a fresh one in {tmp_path}")]
    assert run_folder(named(tmp_path)) == [(OK, f"{tmp_path / 'mine'} is free")]
    assert list(tmp_path.iterdir()) == []
    a_run(tmp_path / "mine", finished=False)
    expected = f"the run {tmp_path / 'mine'} is unfinished: it goes on after update 40"
    assert run_folder(named(tmp_path)) == [(OK, expected)]
    (tmp_path / "mine" / "checkpoints" / "update-000000040" / "model.safetensors").write_bytes(b"other")
    ((level, text),) = run_folder(named(tmp_path))
    assert level == NOTE
    assert "is damaged (model.safetensors changed since it was written)" in text


def test_a_finished_run_is_noted_and_other_settings_are_refused(tmp_path) -> None:
    a_run(tmp_path / "mine", finished=True)
    ((level, text),) = run_folder(named(tmp_path))
    assert level == NOTE
    assert "is finished" in text
    with pytest.raises(SettingsError, match=r"--lr was 0\.1 and is now 0\.2"):
        run_folder(named(tmp_path, replace(DIGITS, optimization=Optimization(lr=0.2))))


def prospect(settings: Settings, world: int = 1) -> Prospect:
    return Prospect.of(settings, sources.load(settings.data.data, settings.data), world)


def test_what_would_be_trained_is_told() -> None:
    ((level, text),) = prospect(DIGITS).what()
    assert level == OK
    assert text.startswith("simplecnn, ")
    assert text.endswith(" parameters, 8x8 pixels; 30 epochs of 11 updates")


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (replace(DIGITS, optimization=Optimization(batch_size=2000)), "--batch-size 2000 is more than the 1438"),
        (replace(DIGITS, model=Model(model="torchvision/inception_v3")), "--image-size"),
        (
            replace(
                DIGITS, data=Data(data="digits", loading="memory"), augmentation=Augmentation(policy="randaugment")
            ),
            "--policy",
        ),
        (replace(DIGITS, augmentation=Augmentation(crop_padding=8, padding_mode="reflect")), "--crop-padding 8"),
        (replace(DIGITS, augmentation=Augmentation(start_size=16)), "--start-size 16 is more than the 8 pixels"),
        (
            replace(
                DIGITS,
                model=Model(model="speednet"),
                data=Data(data="digits", image_size=32),
                augmentation=Augmentation(start_size=8),
            ),
            "speednet takes no images of that size",
        ),
        (replace(DIGITS, lifecycle=Lifecycle(init=Path("/absent"))), "no weights in /absent"),
    ],
)
def test_settings_that_contradict_the_data_are_refused(settings, refusal) -> None:
    with pytest.raises(SettingsError, match=refusal):
        prospect(settings)


@pytest.mark.parametrize(("free", "level"), [(2**40, OK), (2**10, NOTE)])
def test_a_disk_that_is_too_small_is_noted(monkeypatch, free, level) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    ((found, text),) = prospect(DIGITS).disk()
    assert found == level
    assert ("make room" in text.lower()) == (level == NOTE)


WORKERS = replace(DIGITS, data=Data(data="digits", loading="workers", workers=2))


@pytest.mark.parametrize(
    ("settings", "free", "level", "expected"),
    [
        (DIGITS, 2**29, OK, "0.3 MiB of decoded images are shared there"),
        (DIGITS, 2**28, NOTE, "--shm-size"),
        (WORKERS, 2**20, OK, "2 workers hand over micro-batches"),
        (WORKERS, 2**16, PROBLEM, "fewer --workers"),
    ],
)
def test_shared_memory_that_is_too_small_is_told(monkeypatch, tmp_path, settings, free, level, expected) -> None:
    monkeypatch.setattr(readiness, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    ((found, text),) = prospect(settings).memory(1)
    assert found == level
    assert expected in text
    monkeypatch.setattr(readiness, "SHARED_MEMORY", tmp_path / "none")
    assert prospect(settings).memory(1) == []


def test_the_planned_rate_is_told_and_drawn() -> None:
    schedule = Schedule(schedule="multistep", milestones=(15,))
    told, *lines, axis = prospect(replace(DIGITS, schedule=schedule)).curve()
    assert told == "learning rate (multistep): 0.1 at first, 0.1 at update 1 of 330, 0.01 at last; momentum 0.9"
    assert [line.partition("|")[2] for line in lines] == ["*" * 30, "", "", "", "", "", " " * 30 + "*" * 30, ""]
    assert axis == f"   epoch  1{'30':>59}"
    assert {len(axis)} == {70}


def test_the_turn_of_onecycle_is_told_with_its_momentum() -> None:
    told, *_ = prospect(DIGITS).curve()
    assert told == (
        "learning rate (onecycle): 0.004 at first, 0.1 at update 99 of 330, 4e-07 at last; momentum 0.95 to 0.85"
    )


def test_a_chart_has_its_highest_value_on_top() -> None:
    lines = chart([0.0, 0.5, 1.0, 1.0])
    assert len(lines) == 8
    assert lines[0] == "       1 |  **"
    assert lines[-1] == "       0 |*"
    assert sum(line.count("*") for line in lines) == 4
