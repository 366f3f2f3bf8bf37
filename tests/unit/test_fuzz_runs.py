"""Damaged run folders: what is read of them is right, or is set aside, or is refused by a message. Nothing else."""

import ast
import copy
import dataclasses
import errno
import functools
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from distrib import assembly, command
from distrib.insight import checkpoint_table, readiness, tracking
from distrib.insight.runs import load_run
from distrib.insight.telling import closing_text
from distrib.insight.tracking import Tracker
from distrib.learning.averaging import WeightAverage, statistics
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.state import Progress, TrainState, load_weights
from distrib.lifecycle import checkpoints, journal, opening
from distrib.lifecycle.checkpoints import MANIFEST, STATE, Checkpoint, Retention
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Beat, Heartbeats, Pulse
from distrib.lifecycle.journal import HISTORY
from distrib.lifecycle.lock import Lock
from distrib.lifecycle.watchdog import explanation
from distrib.settings import Compute, Data, Lifecycle, Model, Optimization, Settings, SettingsError
from distrib.zoo import registry
from tests.launching import run, train
from tests.peers import Solo

HOUSE = Path(checkpoints.__file__).parents[1]
SETTINGS = Settings(
    model=Model(model="simplecnn", width=2),
    data=Data(data="digits"),
    optimization=Optimization(epochs=3, ema_decay=0.9),
    compute=Compute(device="cpu", precision="fp32"),
)
SCORES = {4: 0.5, 8: 0.75, 12: None}
"""Test accuracies of the checkpoints, by their updates."""
PREPROCESSING = {"size": 8, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": list("0123456789")}


# How files are damaged: bytes


def flipped(content: bytes, draw: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def cut_short(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def inserted(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return (
        content[:place]
        + draw.choice([draw.randbytes(draw.randint(1, 9)), b"\0", b"\xff", b"\n", b'"'])
        + content[place:]
    )


def removed(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + content[place + draw.randint(1, 30) :]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    """What a crash leaves on some file systems: the length, but not the bytes."""
    place = draw.randrange(len(content))
    length = draw.choice([8, len(content) - place])
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def other_lines(content: bytes, draw: random.Random) -> bytes:
    """A line is lost, twice there or elsewhere."""
    lines = content.splitlines(keepends=True)
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.choice([0, 1, 2])):
        lines.insert(draw.randint(0, len(lines)), line)
    return b"".join(lines)


def spaced(content: bytes, draw: random.Random) -> bytes:
    """White space more: where it stands between words, it changes nothing."""
    place = draw.choice([i for i, byte in enumerate(content) if byte in b" ,:{}[]\n"] or [0])
    return content[:place] + draw.choice([b" ", b"  ", b"\n", b"\t", b"\r\n"]) + content[place:]


def something_else(_: bytes, draw: random.Random) -> bytes:
    depth = draw.choice([50, 5000, 100_000])
    texts = [
        "",
        "\n",
        " ",
        "null",
        "true",
        "3",
        "-1",
        "NaN",
        "1e999",
        '"x"',
        "[]",
        "{}",
        "[[]]",
        "9" * 5000,
        "\ufeff{}",
    ]
    deep = ["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth, '{"a": ' * depth + "1" + "}" * depth]
    raw = [b"\xff\xfe", "{}".encode("utf-16"), bytes(400), b"\x80\x04N.", b"\x89PNG\r\n", draw.randbytes(300)]
    chosen = draw.choice([*texts, *deep, *raw])
    return chosen if isinstance(chosen, bytes) else chosen.encode()


BYTES = (flipped, flipped, cut_short, inserted, removed, zeroed, other_lines, spaced, something_else)

# How files are damaged: values

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    3,
    2**63,
    10**400,
    -(10**400),
    0.5,
    -0.5,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
]
ODD += ["", "x", "0.5", "\ud800", "a\0b", "../model.safetensors", "/etc/passwd", "two\nlines", "y" * 3000, "\x1b[31m"]
ODD += [[], {}, [[]], {"a": {}}, [None] * 3, [1, 2, 3], functools.reduce(lambda inner, _: [inner], range(100), [])]


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everywhere that something stands in a JSON value: containers with keys or indices."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from spots(value[key])


def edited(value: Any, draw: random.Random) -> Any:
    """The JSON value with something in it changed, renamed, removed or added."""
    box = [copy.deepcopy(value)]
    where, key = draw.choice(list(spots(box)))
    action = draw.choice(["change", "change", "change", "remove", "rename", "add"])
    if action == "change" or where is box:
        where[key] = copy.deepcopy(draw.choice(ODD))
    elif action == "add" and isinstance(where, dict):
        where[draw.choice(["", "x", "../x", "a\0b", "update", "\ud800", "model.safetensors"])] = draw.choice(ODD)
    elif action == "rename" and isinstance(where, dict):
        where[f"{key}."] = where.pop(key)
    else:
        del where[key]
    return box[0]


def edited_json(content: bytes, draw: random.Random) -> bytes:
    try:
        return json.dumps(edited(json.loads(content), draw), indent=draw.choice([None, 1])).encode()
    except (ValueError, TypeError, RecursionError):
        return flipped(content, draw)  # it was damaged before


def edited_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    lines[at] = edited_json(lines[at], draw).replace(b"\n", b"") + b"\n"
    return b"".join(lines)


def edited_recipe(content: bytes, draw: random.Random) -> bytes:
    try:
        return yaml.safe_dump(edited(yaml.safe_load(content), draw), sort_keys=draw.random() < 0.5).encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return flipped(content, draw)


# How files are damaged: what stands there is no such file

ENTRIES: list[Callable[[Path], object]] = [
    lambda _: None,
    lambda path: path.write_bytes(b""),
    lambda path: path.mkdir(),
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to(path.parent),
]
ENDLESS: list[Callable[[Path], object]] = [os.mkfifo, lambda path: path.symlink_to("/dev/zero")]


def replaced(path: Path, draw: random.Random, *more: Callable[[Path], object]) -> None:
    remove(path)
    draw.choice([*ENTRIES, *more])(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rewritten(path: Path, content: bytes) -> None:
    """Not in place: its bytes are those of other copies, too."""
    path.unlink()
    path.write_bytes(content)


def damage(path: Path, draw: random.Random, *more: Callable[[bytes, random.Random], bytes]) -> None:
    """Damage a file's bytes; an empty one has none."""
    content = path.read_bytes()
    if content:
        rewritten(path, draw.choice([*BYTES, *more])(content, draw))


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Say of an error with what it came."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


def refusal(call: Callable[[], Any], *places: object) -> str | None:
    """The message with which it refuses, which names one of the places; None if it does not."""
    try:
        call()
    except SettingsError as error:
        told = str(error)
    else:
        return None
    assert any(str(place) in told for place in places), f"{places} not in: {told}"
    return told


# A run folder as training leaves it


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(checkpoint_table, "PRUNING", 0)
        yield


@pytest.fixture
def quick_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To parse a recipe takes most of the time: what could be read once is remembered."""
    load, known = command.load, dict[bytes, Settings]()

    def remembered(path: Path) -> Settings:
        content = path.read_bytes() if path.is_file() else b""
        if content not in known:
            known[content] = load(path)
        return known[content]

    monkeypatch.setattr(command, "load", remembered)


def fresh_state() -> TrainState:
    network = registry.build(SETTINGS.model, classes=10, image_size=8)
    progress = Progress(Plateau(10, 0.1), EarlyStop(None, 1e-4))
    return TrainState(
        network, make_optimizer(network, SETTINGS.optimization), WeightAverage(network, 0.9), None, progress
    )


def save(place: Path, update: int, top1: float | None) -> None:
    torch.manual_seed(update)
    state, rank = fresh_state(), SimpleNamespace(is_main=True, size=1, rank=0)
    state.progress.update, state.progress.epoch, state.progress.test_top1 = update, update // 4, top1
    groups = state.tensors(rank)  # type: ignore[arg-type]
    groups["statistics"] = {
        f"{g}/{n}": torch.stack([b, b]) for g in ("model", "ema") for n, b in statistics(state.network).items()
    }
    data = {"preprocessing": PREPROCESSING, "train_images": 1438, "test_images": 359, "fingerprint": {"train": "a"}}
    checkpoints.save(place, groups, state.counters() | {"data": data, "world_size": 2}, Retention(newest=9))


def write_journal(path: Path) -> None:
    records = journal.Journal(path)
    records.event("start", update=0, epoch=0, world_size=2)
    for update in range(1, 13):
        figures = {"loss": 1 / update, "lr": 0.1, "momentum": 0.9, "grad_norm": 1.5, "images_per_second": 99.5}
        records.write(
            [{"kind": "update", "update": update, "epoch": (update + 3) // 4, **figures, "data_wait_share": 0.1}]
        )
        if update % 4 == 0:
            scores = {"train_loss": 0.5, "train_top1": 0.6, "test_loss": 0.7, "test_top1": 0.5, "test_top5": 0.9}
            records.write([{"kind": "epoch", "epoch": update // 4, "update": update, **scores, "seconds": 1.5}])
            records.event("checkpoint", update=update, epoch=update // 4, seconds=0.1)
    records.event("stop", update=12, epoch=3, exit_code=75)
    records.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    made.checkpoints.mkdir(parents=True)
    opening._write_settings(made, SETTINGS)
    for update, top1 in SCORES.items():
        save(made.checkpoints, update, top1)
    write_journal(made.journal)
    made.heartbeats.mkdir()
    Heartbeats(made.heartbeats, Solo()).write(Pulse("update", 12, time.monotonic()))  # type: ignore[arg-type]
    (made.path / "wandb").mkdir()
    (made.path / "wandb" / "sent").write_text('{"update": 12, "epoch": 3}')
    (made.path / "wandb" / "run_id").write_text("0a1b2c3d")
    (made.path / "lock").write_text('{"host": "a", "pid": 7, "since": "2026-01-01 00:00:00"}\n')
    (made.path / "environment.json").write_text("{}\n")
    return made.path


def copied(whole: Path, to: Path) -> Path:
    """A copy, in which the checkpoints' files are those of the original until they are rewritten."""
    shutil.copytree(whole, to, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(whole / "checkpoints", to / "checkpoints", copy_function=os.link)
    return to


# Checkpoints


def as_saved(found: Path, original: Path) -> bool:
    """Whether a checkpoint holds the bytes that were saved; white space in a manifest is nobody's loss."""
    if found.is_symlink() or not found.is_dir():
        return False
    for file in original.iterdir():
        now = found / file.name
        if not now.is_file() or now.stat().st_size > 10**6:
            return False
        if file.name != MANIFEST and now.read_bytes() != file.read_bytes():
            return False
    strays = {file.name for file in found.glob("*.safetensors")} - {file.name for file in original.iterdir()}
    try:
        return not strays and json.loads((found / MANIFEST).read_text()) == json.loads(
            (original / MANIFEST).read_text()
        )
    except (ValueError, RecursionError):
        return False


def sound(place: Path, whole: Path) -> list[Checkpoint]:
    """The checkpoints in a folder that are as they were saved, oldest first."""
    originals = sorted((whole / "checkpoints").iterdir())
    return [Checkpoint(place / path.name) for path in originals if as_saved(place / path.name, path)]


def best_of(kept: list[Checkpoint]) -> Checkpoint | None:
    return max(kept, key=lambda c: (SCORES[c.update] or -1, c.update), default=None)


def same(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(torch.equal(t, others[name]) for name, t in tensors.items())


def damage_checkpoints(place: Path, draw: random.Random) -> str:
    """Do something to some of the checkpoints; say what."""
    told = []
    for _ in range(draw.choice([1, 1, 2, 4])):
        chosen = place / f"update-{draw.choice(list(SCORES)):09d}"
        present = sorted(chosen.iterdir()) if chosen.is_dir() and not chosen.is_symlink() else []
        dice = draw.random()
        if not present or dice < 0.02:
            if os.path.lexists(chosen):
                replaced(chosen, draw, *ENDLESS)
            told.append(chosen.name)
            continue
        file = draw.choice([*present, chosen / MANIFEST, chosen / STATE])
        if dice < 0.05:
            (chosen / "stray.safetensors").write_bytes(b"nobody vouches for this")
        elif os.path.lexists(file) and (dice < 0.15 or not file.is_file() or file.stat().st_size > 10**6):
            replaced(file, draw, *ENDLESS)
        elif file.is_file():
            damage(file, draw, *[edited_json] * (file.suffix == ".json"))
        told.append(f"{chosen.name}/{file.name}")
    return ", ".join(told)


def examine_checkpoints(path: Path, whole: Path) -> int:
    """Read damaged checkpoints in every way; return how many are as they were saved."""
    place = path / "checkpoints"
    kept = sound(place, whole)
    for checkpoint in checkpoints.every(place):
        fault = checkpoint.fault()
        assert (fault is None) == (checkpoint in kept), fault
        quick = checkpoint.fault(hashes=False)
        assert quick is None or fault, "a quick look finds less, not more"
        assert checkpoint.score() in (None, SCORES[checkpoint.update])
        used = partial(checkpoints.weights, checkpoint.path)
        assert (refusal(used, checkpoint.path) is None) == (fault is None)
    best, newest = best_of(kept), kept[-1] if kept else None
    assert checkpoints.whole(place) == best
    assert checkpoints.whole(place, latest=True) == newest
    assert (top := checkpoints.best(place)) is None or top.score() == SCORES[top.update]
    if best is None:
        assert refusal(lambda: checkpoints.weights(path), path)
    else:
        original = safetensors.torch.load_file(whole / "checkpoints" / best.path.name / "model.safetensors")
        assert same(checkpoints.weights(path), original)
    newer = [c.path.name for c in checkpoints.every(place) if newest is None or c.path.name > newest.path.name]
    chosen, messages = checkpoints.newest(place)
    assert chosen == newest
    assert len(messages) == len(newer)
    assert all(f"damaged-{name}" in " ".join(messages) for name in newer)
    assert checkpoints.newest(place) == (newest, [])
    return len(kept)


def endure_checkpoints(whole: Path, root: Path, seed: int, count: int) -> list[int]:
    draw, left = random.Random(f"checkpoints {seed}"), []
    for number in range(count):
        path = copied(whole, root / "run")
        done = damage_checkpoints(path / "checkpoints", draw)
        with noted(f"checkpoints {number} of seed {seed}: {done}"):
            left.append(examine_checkpoints(path, whole))
        shutil.rmtree(path)
    return left


def test_damaged_checkpoints_are_never_used(whole: Path, tmp_path: Path) -> None:
    left = endure_checkpoints(whole, tmp_path, seed=0, count=400)
    assert left.count(3) > 3  # by white space alone
    assert left.count(0) > 3
    assert left.count(2) > 130


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_damaged_checkpoints_are_never_used(whole: Path, tmp_path: Path) -> None:
    endure_checkpoints(whole, tmp_path, seed=1, count=3800)


def test_a_disk_that_does_not_answer_costs_no_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, read = copied(whole, tmp_path / "run") / "checkpoints", Path.read_text

    def read_text(path: Path, *arguments: Any, **words: Any) -> str:
        if path.parent.name == "update-000000008":
            raise OSError(errno.EIO, "Input/output error")
        return read(path, *arguments, **words)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert checkpoints.whole(place) == Checkpoint(place / "update-000000004")
    with pytest.raises(OSError, match="Input/output error"):
        Retention(newest=1).prune(place)  # the one that cannot be read may be the best
    assert [checkpoint.update for checkpoint in checkpoints.every(place)] == [4, 8, 12]


def test_a_score_that_rotted_has_no_better_checkpoint_pruned(whole: Path, tmp_path: Path) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints"
    state = place / "update-000000004" / STATE
    rewritten(state, state.read_bytes().replace(b'"test_top1": 0.5', b'"test_top1": 0.9'))
    assert Checkpoint(state.parent).state["test_top1"] == 0.9
    assert checkpoints.best(place) == Checkpoint(place / "update-000000008")
    Retention(newest=1).prune(place)
    assert [checkpoint.update for checkpoint in checkpoints.every(place)] == [8, 12]


# States that were edited, and vouched for all the same


def reseal(checkpoint: Path) -> None:
    """Have the manifest say what is there now."""
    digests = {file.name: checkpoints.sha256(file) for file in checkpoint.iterdir() if file.name != MANIFEST}
    rewritten(checkpoint / MANIFEST, json.dumps(digests).encode())


def network_of(run: Path) -> torch.nn.Module:
    return load_run(run, "latest").network()


def restored(state: TrainState, checkpoint: Checkpoint) -> None:
    state.restore(checkpoint, Solo(rank=1, size=2))  # type: ignore[arg-type]
    told = json.loads((checkpoint.path / STATE).read_text())
    taken = dataclasses.asdict(state.progress)
    assert repr({name: told[name] for name in taken if name not in NESTED}) == repr(
        {name: value for name, value in taken.items() if name not in NESTED}
    )
    for name in NESTED:
        assert repr({key: told[name][key] for key in taken[name]}) == repr(taken[name])
    assert isinstance(told["world_size"], int)


NESTED = ("plateau", "early_stop", "sums")


def endure_edited_states(whole: Path, root: Path, seed: int, count: int) -> tuple[int, int]:
    draw, state = random.Random(f"states {seed}"), fresh_state()
    read = went_on = 0
    path = copied(whole, root / "run")
    place = path / "checkpoints" / "update-000000012"
    original = (place / STATE).read_bytes()
    for number in range(count):
        content = edited_json(original, draw)
        if draw.random() < 0.2:
            content = edited_json(content, draw) if content[:1] == b"{" and len(content) > 10 else content
        rewritten(place / STATE, content)
        reseal(place)
        with noted(f"state {number} of seed {seed}: {content!r:.3000}"):
            assert Checkpoint(place).score() is None or 0 <= (Checkpoint(place).score() or 0) <= 1
            fault = Checkpoint(place).fault()
            if fault is not None:
                found = load_run(path, "latest").checkpoint
                assert found.path.name == "update-000000008"
                assert checkpoints.newest(place.parent)[0] == found
                shutil.rmtree(path)
                path = copied(whole, root / "run")
                continue
            read += refusal(partial(network_of, path), place) is None
            went_on += refusal(partial(restored, state, Checkpoint(place)), place / STATE) is None
    return read, went_on


@pytest.mark.usefixtures("quick_recipes")
def test_edited_states_are_refused_by_the_name_of_their_file(whole: Path, tmp_path: Path) -> None:
    read, went_on = endure_edited_states(whole, tmp_path, seed=0, count=1000)
    assert 100 < read < 900
    assert 100 < went_on < 900


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick_recipes")
def test_many_edited_states_are_refused_by_the_name_of_their_file(whole: Path, tmp_path: Path) -> None:
    endure_edited_states(whole, tmp_path, seed=1, count=3000)


def set_in(path: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(state: dict[str, Any]) -> None:
        for key in path[:-1]:
            state = state[key]
        if value is KeyError:
            del state[path[-1]]
        else:
            state[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "needle"),
    [
        (set_in(("update",), -12), "update"),
        (set_in(("update",), 8), "another update, 8"),
        (set_in(("update",), 12.0), "update"),
        (set_in(("update",), True), "update"),
        (set_in(("epoch",), -1), "epoch"),
        (set_in(("epoch",), 13), "epoch"),
        (set_in(("world_size",), 0), "world_size"),
        (set_in(("threads",), "many"), "threads"),
        (set_in(("finished",), "no"), "finished"),
        (set_in(("data",), []), "data"),
    ],
)
def test_a_checkpoint_whose_state_makes_no_sense_is_damaged(
    whole: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None], needle: str
) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints" / "update-000000012"
    state = json.loads((place / STATE).read_text())
    edit(state)
    rewritten(place / STATE, json.dumps(state).encode())
    reseal(place)
    fault = Checkpoint(place).fault()
    assert fault is not None
    assert STATE in fault
    assert needle in fault


@pytest.mark.parametrize(
    "edit",
    [
        set_in(("data", "preprocessing"), KeyError),
        set_in(("data", "preprocessing"), None),
        set_in(("data", "preprocessing", "mean"), KeyError),
        set_in(("data", "preprocessing", "mean"), [0.5, 0.5]),
        set_in(("data", "preprocessing", "std"), [0.5, 0.0, 0.5]),
        set_in(("data", "preprocessing", "std", 1), math.nan),
        set_in(("data", "preprocessing", "size"), 0),
        set_in(("data", "preprocessing", "size"), "8"),
        set_in(("data", "preprocessing", "classes"), [1, 2, 3]),
    ],
)
def test_a_state_that_does_not_describe_the_images_is_named(
    whole: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = copied(whole, tmp_path / "run")
    place = path / "checkpoints" / "update-000000012"
    state = json.loads((place / STATE).read_text())
    edit(state)
    rewritten(place / STATE, json.dumps(state).encode())
    reseal(place)
    told = refusal(lambda: load_run(path, "latest"), place / STATE)
    assert told is not None
    assert "data.preprocessing" in told


@pytest.mark.parametrize(
    "edit",
    [
        set_in(("plateau",), KeyError),
        set_in(("plateau",), []),
        set_in(("plateau", "scale"), "1"),
        set_in(("plateau", "waited"), 0.5),
        set_in(("sums", "loss"), None),
        set_in(("early_stop", "best"), "none"),
        set_in(("bad_updates",), False),
        set_in(("best_top1",), []),
        set_in(("scaler",), KeyError),
        set_in(("world_size",), KeyError),
    ],
)
def test_counters_that_training_cannot_have_written_are_refused(
    whole: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints" / "update-000000012"
    state = json.loads((place / STATE).read_text())
    edit(state)
    rewritten(place / STATE, json.dumps(state).encode())
    reseal(place)
    assert Checkpoint(place).fault() is None
    assert refusal(lambda: restored(fresh_state(), Checkpoint(place)), place / STATE)


def test_a_manifest_vouches_for_files_of_its_own_folder_by_their_hashes(whole: Path, tmp_path: Path) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints" / "update-000000012"
    manifest = json.loads((place / MANIFEST).read_text())
    assert Checkpoint(place).fault() is None
    (tmp_path / "outside").write_bytes(b"")
    digest = checkpoints.sha256(tmp_path / "outside")
    names = ["../outside", "../../../outside", str(tmp_path / "outside"), "..", ".", "", "\0", "\ud800", "a/b"]
    cases = [{**manifest, name: digest} for name in names]
    cases += [{**manifest, name: value} for name in manifest for value in (None, True, 0, [], "", digest)]
    cases += [{n: d for n, d in manifest.items() if n != name} for name in manifest]
    for case in cases:
        rewritten(place / MANIFEST, json.dumps(case).encode())
        fault = Checkpoint(place).fault()
        assert fault is not None, case
        fault.encode()  # any terminal can show it
        assert refusal(lambda: checkpoints.weights(place), place)


def test_a_checkpoint_that_nothing_vouches_for_holds_no_weights(whole: Path, tmp_path: Path) -> None:
    path = copied(whole, tmp_path / "run")
    place = path / "checkpoints" / "update-000000008"
    for name in (MANIFEST, STATE):
        (place / name).unlink()
        assert refusal(partial(checkpoints.weights, place), place)
    assert same(
        checkpoints.weights(place / "model.safetensors"), Checkpoint(place).tensors("model")
    )  # asked for by name
    assert not same(checkpoints.weights(path), Checkpoint(place).tensors("model"))


def test_tensors_of_another_network_are_refused(whole: Path, tmp_path: Path) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints" / "update-000000012"
    state = fresh_state()
    for group in ("model", "ema", "optimizer"):
        file = place / f"{group}.safetensors"
        content, tensors = file.read_bytes(), safetensors.torch.load_file(file)
        name, tensor = next((n, t) for n, t in tensors.items() if t.ndim > 1)
        for other in (
            {**tensors, name: tensor[:1].clone()},
            {**tensors, f"{name}.x/y": tensor.clone()},
            {**tensors, name: tensor.unsqueeze(0)},
        ):
            rewritten(file, safetensors.torch.save(other))
            reseal(place)
            assert Checkpoint(place).fault() is None
            told = refusal(lambda: restored(state, Checkpoint(place)), place)
            assert told is not None
            assert "of another network" in told
            assert name in told
        rewritten(file, content)
    reseal(place)
    restored(state, Checkpoint(place))


# Files of weights


def header(tensors: Any, data: bytes = b"") -> bytes:
    """A safetensors file of that header, whatever it says."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def crafted() -> Iterator[bytes]:
    """Headers that promise more than there is."""
    for length in (0, 1, 7, 10**8 - 1, 10**8, 10**8 + 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield struct.pack("<Q", length) + b'{"a": {}}'
    shapes = [[], [0], [4], [-1], [1.5], [2**31, 2**31], [2**40, 0], [2**63], [2**64], [1] * 5000, None, "4", [None]]
    offsets = [[0, 16], [0, 2**40], [2**63, 2**64 - 1], [16, 0], [-1, 3], [0], [], None, [0, 0], [8, 16]]
    for dtype in ("F32", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "U64", "X", "", None, 3):
        for shape in shapes:
            for offset in offsets:
                yield header({"fc.weight": {"dtype": dtype, "shape": shape, "data_offsets": offset}}, bytes(16))
    for text in (b"[" * 10**6, b'{"a":' * 10**5, b"null", b"[]", b"\xff\xfe", b'{"__metadata__": {"a": 1}}', b"{}"):
        yield header(text)


def used_as_first_weights(file: Path) -> bool:
    """Whether a network can begin with the weights in a file."""
    found: list[dict[str, torch.Tensor]] = []
    if refusal(lambda: found.append(checkpoints.weights(file)), file) is not None:
        return False
    network = registry.build(SETTINGS.model, classes=10, image_size=8)
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}
    good = refusal(lambda: load_weights(network, found[0], str(file)), file) is None
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()} == before
    return good


def endure_first_weights(whole: Path, root: Path, seed: int, count: int) -> int:
    draw, good = random.Random(f"weights {seed}"), 0
    content = (whole / "checkpoints" / "update-000000008" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    head, data, names = json.loads(content[8 : 8 + size]), content[8 + size :], size + 8
    for number in range(count):
        file = root / "weights.safetensors"
        dice = draw.random()
        if dice < 0.3:
            spoilt = header(edited(head, draw), data)
        elif dice < 0.6:
            spoilt = flipped(content[:names], draw) + content[names:]
        else:
            spoilt = draw.choice(BYTES)(content, draw)
        file.write_bytes(spoilt)
        with noted(f"weights {number} of seed {seed}: {spoilt[:names]!r:.3000}"):
            good += used_as_first_weights(file)
    return good


def test_damaged_weights_are_used_only_if_they_fit(whole: Path, tmp_path: Path) -> None:
    good = endure_first_weights(whole, tmp_path, seed=0, count=2000)
    assert 50 < good < 1000  # what is damaged among the numbers themselves, nobody can see


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_damaged_weights_are_used_only_if_they_fit(whole: Path, tmp_path: Path) -> None:
    endure_first_weights(whole, tmp_path, seed=1, count=15_000)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, content in enumerate(crafted()):
        file.write_bytes(content)
        with noted(f"header {number}: {content[:300]!r}"):
            assert not used_as_first_weights(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(whole: Path, tmp_path: Path, kind: torch.dtype) -> None:
    weights = checkpoints.weights(whole)
    network = registry.build(SETTINGS.model, classes=10, image_size=8)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    safetensors.torch.save_file({**weights, name: weights[name].to(kind)}, tmp_path / "odd.safetensors")
    file = tmp_path / "odd.safetensors"
    told = refusal(lambda: load_weights(network, checkpoints.weights(file), str(file)), file)
    assert told is not None
    assert name in told


@pytest.mark.parametrize("entry", [*ENTRIES, *ENDLESS])
@pytest.mark.parametrize("place", ["file", "checkpoints", "run", "x" * 300])
def test_what_is_no_file_holds_no_weights(tmp_path: Path, entry: Callable[[Path], object], place: str) -> None:
    path = {"file": tmp_path / "a.safetensors", "checkpoints": tmp_path / "run" / "checkpoints"}.get(place)
    (tmp_path / "run").mkdir()
    if path is not None:
        entry(path)
    assert refusal(lambda: checkpoints.weights(path or tmp_path / place), tmp_path)


# Journals


def intact_lines(content: bytes, original: bytes) -> list[bytes]:
    """Those of its lines that were written as they are."""
    written = set(original.splitlines(keepends=True))
    return [line for line in content.split(b"\n")[:-1] if line + b"\n" in written]


def stays(record: dict[str, Any], update: int, epoch: int) -> bool:
    """Whether a record is of the run's history, or of an update and an epoch that need not be computed again."""
    again = record.get("update", 0) > update or (record["kind"] == "epoch" and record.get("epoch", 0) > epoch)
    return record.get("event") in HISTORY or not again


def examine_journal(path: Path, original: bytes, update: int, epoch: int) -> bool:
    """Read and cut back a damaged journal; whether it could be read as it was."""
    content = path.read_bytes()
    intact = intact_lines(content, original)
    records: list[Any] = []
    message = refusal(lambda: records.extend(journal.read(path)), f"{path}, line ")
    if message is None:
        found = [json.dumps(record) for record in records]
        assert all(line.decode() in found for line in intact)
    else:
        place = int(message.partition(f"{path}, line ")[2].partition(",")[0])
        assert content.split(b"\n")[place - 1] not in intact
    with redirect_stderr(io.StringIO()) as heard:
        journal.cut_back(path, update, epoch)
    assert ("was damaged; dropped its lines [" in heard.getvalue()) == (message is not None)
    kept = path.read_bytes()
    assert intact_lines(kept, original) == [line for line in intact if stays(json.loads(line), update, epoch)]
    assert set(kept.split(b"\n")) <= {*content.split(b"\n"), b""}
    for record in journal.read(path):  # whoever reads on finds what a record is
        assert isinstance(record["kind"], str)
        assert type(record.get("update", 0)) is type(record.get("epoch", 0)) is int
        assert record["kind"] == "event" or "update" in record
        assert stays(record, update, epoch)
    journal.cut_back(path, update, epoch)
    assert path.read_bytes() == kept
    return message is None


def endure_journals(whole: Path, root: Path, seed: int, count: int) -> int:
    draw, good, path = random.Random(f"journals {seed}"), 0, root / "metrics.jsonl"
    original = (whole / "metrics.jsonl").read_bytes()
    for number in range(count):
        content = original
        for _ in range(draw.choice([1, 1, 1, 3])):
            content = (
                draw.choice([*BYTES, edited_line])(content, draw)
                if content == original
                else flipped(content + b" ", draw)
            )
        path.write_bytes(content)
        with noted(f"journal {number} of seed {seed}: {content!r:.5000}"):
            good += examine_journal(path, original, draw.randint(0, 14), draw.randint(0, 4))
    return good


def test_damaged_journals_keep_every_line_that_is_whole(whole: Path, tmp_path: Path) -> None:
    good = endure_journals(whole, tmp_path, seed=0, count=2500)
    assert 200 < good < 2300


@pytest.mark.parametrize(
    "line",
    [
        *(f'{{"kind": "update", "update": 2, "loss": {word}}}' for word in ("NaN", "Infinity", "-Infinity")),
        *(f'{{"kind": "update", "update": {word}}}' for word in ("null", "true", "1.0", '"1"', "[]", "9" * 5000)),
        *("", "null", "[]", '"kind"', "{}", '{"kind": "update"}', '{"kind": "epoch", "epoch": 1}', '{"update": 1}'),
        *(
            '{"kind": "event"}',
            '{"kind": "event", "event": null}',
            '{"kind": 3, "update": 1}',
            '{"kind": [], "update": 1}',
        ),
        *('{"kind": "epoch", "update": 1, "epoch": "1"}', '{"kind": "event", "event": "best", "epoch": null}'),
        *(
            "[" * 10**5,
            '{"kind":' * 10**5,
            '{"kind": "update", "update": 1, "a": "\ufffd"}',
            "\0" * 80,
            '{"kind": "upd',
        ),
    ],
)
def test_what_is_no_record_is_named_and_dropped(tmp_path: Path, line: str) -> None:
    path, good = tmp_path / "metrics.jsonl", '{"kind": "update", "update": 1, "loss": null}\n'
    path.write_text(f"{good}{line}\n{good}")
    assert refusal(lambda: list(journal.read(path)), f"{path}, line 2,")
    journal.cut_back(path, 9, 9)
    assert path.read_text() == good * 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_damaged_journals_keep_every_line_that_is_whole(whole: Path, tmp_path: Path) -> None:
    endure_journals(whole, tmp_path, seed=1, count=20_000)


# Recipes


def hand_made() -> list[bytes]:
    """Recipes that nobody writes by accident."""
    values = ["[[1]]", "[{a: b}]", "[--lr, 5]", "[3, -h]", "{a: b}", "&a [*a]", "*b", "!!python/name:os.system ''"]
    values += [
        "!!binary eA==",
        '"\\UFFFFFFFF"',
        '"\\ud800"',
        '"a\\0b"',
        "1e999",
        ".nan",
        "9" * 5000,
        "|\n 3",
        "[]",
        "''",
    ]
    values += ["[" * 10 + "]" * 10, "y" * 10**4, "\ufeff", "-", "--help", "=", "%"]
    made = [f"{key}: {value}\n" for key in ("lr", "epochs", "milestones", "name", "out", "data") for value in values]
    made += [
        "[" * 10**4,
        "{" * 10**4,
        f"milestones: {'[' * 1000}{']' * 1000}",
        "- " * 10**4,
        "? " * 10**4,
        f"%YAML 1.{'9' * 5000}\n---\n",
        "lr: 1\n---\nlr: 2\n",
    ]
    # Nine times the list before, eleven times over: written out, it would fill any memory.
    lists = [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    made += [f"milestones: [&a0 [1, 2], {', '.join(lists)}]"]
    return [text.encode() for text in made]


def examine_recipe(path: Path, *, parsed: bool) -> bool:
    """Whether a damaged recipe can be read. To parse the flags that it becomes takes most of the time."""
    flags: list[str] = []
    good = refusal(lambda: flags.extend(command._flags(path)), path) is None
    known = {f"--{name.replace('_', '-')}" for name in SETTINGS.flat()}
    for flag in flags:
        name = flag.partition("=")[0].replace("--no-", "--")
        assert name in known or not name.startswith("-")
        assert b"\0" not in os.fsencode(flag)
    if not parsed:
        return good
    found: list[Settings] = []
    good = refusal(lambda: found.append(command.load(path)), path) is None
    for settings in found:
        path.write_text(command.dump(settings))
        assert command.load(path) == settings
    return good


def endure_recipes(whole: Path, root: Path, seed: int, count: int, parsed: int) -> int:
    draw, good, path = random.Random(f"recipes {seed}"), 0, root / "settings.yaml"
    original = (whole / "settings.yaml").read_bytes()
    for number in range(count):
        content = draw.choice([*BYTES, *[edited_recipe] * 6])(original, draw)
        path.write_bytes(content)
        with noted(f"recipe {number} of seed {seed}: {content!r:.3000}"):
            good += examine_recipe(path, parsed=number < parsed)
    return good


def test_damaged_recipes_are_read_or_refused_by_their_name(whole: Path, tmp_path: Path) -> None:
    good = endure_recipes(whole, tmp_path, seed=0, count=250, parsed=25)
    assert 25 < good < 225


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_damaged_recipes_are_read_or_refused_by_their_name(whole: Path, tmp_path: Path) -> None:
    endure_recipes(whole, tmp_path, seed=1, count=1000, parsed=300)


def test_odd_recipes_are_read_or_refused_by_their_name(tmp_path: Path) -> None:
    for content in hand_made():
        (tmp_path / "odd.yaml").write_bytes(content)
        with noted(f"{content!r:.300}"):
            examine_recipe(tmp_path / "odd.yaml", parsed=False)


@pytest.mark.parametrize("text", ["lr: [3, --epochs, 5]", "milestones: [3, --lr, 5]", "lr: [0.1]", "milestones: [-h]"])
def test_items_of_a_list_are_never_taken_for_flags(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    told = refusal(lambda: command.load(tmp_path / "recipe.yaml"), tmp_path / "recipe.yaml")
    assert told is not None
    assert f"'{text.partition(':')[0]}' does not take " in told


NO_NAMES = [
    "../x",
    "/x",
    ".",
    "..",
    "",
    "x/",
    "x/y",
    ".x",
    "x" * 256,
    "é" * 128,
    "a\nb",
    "a\x1b[31mb",
    "a\u2028b",
    "\udcff",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_no_folder_should_have_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        command.parse([f"--name={name}"])
    assert leaving.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--name" in err


@pytest.mark.parametrize("name", [*NO_NAMES, "a\0b", "a\ud800b"])
def test_a_name_that_no_folder_should_have_is_refused_in_a_recipe(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": name}), encoding="utf-8")
    assert "name" in (refusal(lambda: command.load(path), path) or "")


@pytest.mark.parametrize("name", ["a b", "-x", "a.b", "Übung", "漢" * 85, "x" * 255, "$(x)", "null"])
def test_other_names_are_those_of_folders(tmp_path: Path, name: str) -> None:
    settings = command.parse([f"--name={name}", f"--out={tmp_path}"])
    path, _ = prepared(settings)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.name == name
    assert opening.recall(settings) == settings


@pytest.mark.parametrize("key", ["out", "data_root", "init"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_no_command_line_can_say_is_refused_in_a_recipe(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: text}), encoding="utf-8")
    assert f"'{key}'" in (refusal(lambda: command.load(path), path) or "")


def test_a_place_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 300)
    settings = dataclasses.replace(SETTINGS, lifecycle=Lifecycle(name="run", out=place))
    assert refusal(lambda: opening.recall(settings), place)
    assert refusal(lambda: prepared(settings), place)
    assert refusal(lambda: load_run(place), place)
    assert refusal(lambda: checkpoints.weights(place), place)


# Small files


def damaged(content: bytes, seed: str, count: int) -> Iterator[bytes]:
    """A small JSON file, damaged so many times."""
    draw = random.Random(seed)
    for number in range(count):
        spoilt = draw.choice([*BYTES, *[edited_json] * 5])(content, draw)
        with noted(f"{seed} {number}: {spoilt!r:.2000}"):
            yield spoilt


def test_damaged_heartbeats_are_read_or_left_out(tmp_path: Path) -> None:
    beats, read, file = Heartbeats(tmp_path, Solo()), 0, tmp_path / "rank-0.json"  # type: ignore[arg-type]
    beats.write(Pulse("update", 12, time.monotonic()))
    for spoilt in damaged(file.read_bytes().rstrip(), "heartbeats", 1500):
        file.write_bytes(spoilt)
        found = beats.read()
        assert all((rank, beat.pid, beat.phase) == (0, os.getpid(), "update") for rank, beat in found.items())
        read += len(found)
    assert 100 < read < 1400
    for entry in ENTRIES:
        remove(file)
        entry(file)
        assert beats.read() == {}


def test_whatever_the_lock_says_a_second_run_is_refused(whole: Path, tmp_path: Path) -> None:
    content, named = (whole / "lock").read_bytes(), 0
    for spoilt in damaged(content, "locks", 1000):
        lock = Lock()
        lock.take(tmp_path)
        (tmp_path / "lock").write_bytes(spoilt)
        if len(spoilt) < 4000:  # deep nesting: see below
            told = lock._refusal(tmp_path)
            assert f"the run folder {tmp_path} is in use by " in told
            named += "another process" not in told
        lock.release()
    assert 100 < named < 900


class Listener:
    """What stands for the run at W&B."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_damaged_watermarks_cost_no_more_than_the_tracking(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, tracked = (whole / "wandb" / "sent").read_bytes(), 0
    (tmp_path / "wandb").mkdir()
    records = [{"kind": "update", "update": update, "epoch": 3, "loss": 0.5} for update in (11, 12, 13)]
    monkeypatch.setattr(tracking, "finish", lambda _: None)
    for spoilt in damaged(content, "watermarks", 600):
        (tmp_path / "wandb" / "sent").write_bytes(spoilt)
        listener = Listener()
        monkeypatch.setattr(tracking, "start", lambda *_, listener=listener: listener)
        with redirect_stderr(io.StringIO()) as heard:
            tracker = Tracker(RunFolder(tmp_path), "project", "offline", {})
            tracker.write(records)
            tracker.close()
        assert not tracker._thread.is_alive()
        assert not heard.getvalue() or heard.getvalue().startswith("W&B: ")
        updates = [row["update"] for row in listener.rows]
        assert updates == [11, 12, 13][3 - len(updates) :]
        tracked += not heard.getvalue()
    assert 50 < tracked < 550


# The folder as a whole


def prepared(settings: Settings) -> tuple[Path, Path | None]:
    """Open a run as training does."""
    lock = Lock()
    try:
        with redirect_stderr(io.StringIO()):
            path, saved = opening._prepare(opening.recall(settings), lock)
            state = Checkpoint(saved).state if saved else {"update": 0, "epoch": 0}
            assembly.clear(RunFolder(path), SimpleNamespace(**state))  # type: ignore[arg-type]
    finally:
        lock.release()
    return path, saved


def damage_run(path: Path, draw: random.Random) -> tuple[str, bool]:
    """Damage a run folder. Says what was done, and whether it may be impossible to go on with the run."""
    told, excused = [], False
    for _ in range(draw.choice([1, 1, 2])):
        entries = [entry for entry in sorted(path.rglob("*")) if "checkpoints/" not in str(entry)]
        if not entries or draw.random() < 0.4:
            told.append(damage_checkpoints(path / "checkpoints", draw))
            continue
        entry = draw.choice(entries)
        told.append(entry.name)
        if entry.is_file() and draw.random() < 0.7:
            edit = {"settings.yaml": edited_recipe, "metrics.jsonl": edited_line}.get(entry.name, edited_json)
            damage(entry, draw, edit, edit, edit)
            excused |= entry.name == "settings.yaml"
        else:
            replaced(entry, draw)
            excused |= entry.name in ("settings.yaml", "metrics.jsonl", "lock", "checkpoints")
    return ", ".join(told), excused


def examine_run(path: Path, whole: Path, *, excused: bool) -> bool:
    """Look at a damaged run in every way, then go on with it; whether that was possible."""
    settings = dataclasses.replace(SETTINGS, lifecycle=Lifecycle(name="run", out=path.parent))
    kept = sound(path / "checkpoints", whole)
    best, newest = best_of(kept), kept[-1] if kept else None
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert checkpoint_table.main([str(path), "--verify"]) in (0, 1, 2)
    refusal(lambda: readiness.run_folder(settings), path)
    found: list[Checkpoint] = []
    told = refusal(lambda: found.append(load_run(path).checkpoint), path)
    assert found == [best] if told is None else best is None or excused
    prepare: list[tuple[Path, Path | None]] = []
    if refusal(lambda: prepare.append(prepared(settings)), path, path.parent) is not None:
        assert excused
        return False
    chosen = Checkpoint(prepare[0][1]) if prepare[0][1] else None
    assert prepare[0][0] == path
    assert chosen == newest
    assert command.load(path / "settings.yaml") == dataclasses.replace(SETTINGS, lifecycle=Lifecycle(out=path.parent))
    last = (chosen.update, chosen.update // 4) if chosen else (0, 0)
    records = list(journal.read(path / "metrics.jsonl")) if (path / "metrics.jsonl").exists() else []
    assert all(stays(record, *last) for record in records)
    assert prepared(settings) == prepare[0]
    return True


def endure_runs(whole: Path, root: Path, seed: int, count: int) -> int:
    draw, good = random.Random(f"runs {seed}"), 0
    for number in range(count):
        path = copied(whole, root / "run")
        done, excused = damage_run(path, draw)
        with noted(f"run {number} of seed {seed}: {done}"):
            good += examine_run(path, whole, excused=excused)
        remove(path)
    return good


@pytest.mark.usefixtures("quick_recipes")
def test_a_damaged_run_goes_on_or_is_refused_by_its_name(whole: Path, tmp_path: Path) -> None:
    good = endure_runs(whole, tmp_path, seed=0, count=150)
    assert 50 < good < 145


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick_recipes")
def test_many_damaged_runs_go_on_or_are_refused_by_their_names(whole: Path, tmp_path: Path) -> None:
    endure_runs(whole, tmp_path, seed=1, count=1000)


def test_a_run_that_has_lost_its_settings_does_not_go_on_with_others(whole: Path, tmp_path: Path) -> None:
    path = copied(whole, tmp_path / "run")
    (path / "settings.yaml").unlink()
    before = sorted(path.rglob("*"))
    settings = dataclasses.replace(SETTINGS, lifecycle=Lifecycle(name="run", out=tmp_path))
    assert "settings.yaml" in (refusal(lambda: prepared(settings), path) or "")
    assert sorted(path.rglob("*")) == before
    shutil.copyfile(whole / "settings.yaml", path / "settings.yaml")
    assert prepared(settings) == (path, path / "checkpoints" / "update-000000012")


@pytest.mark.parametrize("name", ["settings.yaml", "metrics.jsonl", "checkpoints", "checkpoints/update-000000012"])
def test_what_may_not_be_read_is_told(whole: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / name).chmod(0)
    if os.access(path / name, os.R_OK):
        pytest.skip("root may read everything")
    settings = dataclasses.replace(SETTINGS, lifecycle=Lifecycle(name="run", out=tmp_path))
    try:
        refusal(lambda: load_run(path), path)
        refusal(lambda: prepared(settings), path, tmp_path)
    finally:
        for left in path.rglob("*"):
            left.chmod(0o755)


def test_a_field_that_the_journal_lost_does_not_fail_a_finished_run(whole: Path, tmp_path: Path) -> None:
    journal_of = copied(whole, tmp_path / "run") / "metrics.jsonl"
    rewritten(journal_of, journal_of.read_bytes().replace(b'"images_per_second"', b'"images_per_seconf"', 1))
    assert len(list(journal.read(journal_of))) > 12
    state = SimpleNamespace(progress=SimpleNamespace(finished=True))
    trainer = SimpleNamespace(folder=RunFolder(tmp_path / "run"), processes=Solo(), state=state)
    assert "best test accuracy" in closing_text(trainer)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("update", "12"), ("seconds", None), ("time", "now")])
def test_a_heartbeat_of_other_types_does_not_silence_the_watchdog(tmp_path: Path, name: str, value: object) -> None:
    beats = Heartbeats(tmp_path, Solo())  # type: ignore[arg-type]
    beats.write(Pulse("update", 12, time.monotonic()))
    content = json.loads((tmp_path / "rank-0.json").read_text())
    (tmp_path / "rank-0.json").write_text(json.dumps(content | {name: value}))
    other = beats.read().get(0)
    both = {0: Beat(**content | {"update": 13})} | ({1: other} if other else {})
    for silent in ({1}, {1} - set(both)):
        assert "the run hangs: rank 1 " in explanation(both, silent, 2)


def test_a_lock_that_is_nested_deeply_is_that_of_another_process(tmp_path: Path) -> None:
    lock = Lock()
    lock.take(tmp_path)
    (tmp_path / "lock").write_text("[" * 10**5)
    try:
        assert "in use by another process" in lock._refusal(tmp_path)
    finally:
        lock.release()


def test_an_endless_epoch_is_listed_as_unknown(whole: Path, tmp_path: Path) -> None:
    place = copied(whole, tmp_path / "run") / "checkpoints" / "update-000000012"
    rewritten(place / STATE, (place / STATE).read_bytes().replace(b'"epoch": 3', b'"epoch": Infinity'))
    assert checkpoint_table.epoch_of(Checkpoint(place)) is None


# What is read is never run

BANNED = ("pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle")
UNSAFE = ("eval", "exec", "compile", "__import__", "torch.load", "yaml.unsafe_load", "yaml.full_load", "os.system")


def dangers(source: str) -> list[str]:
    """What of a module's source could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED]
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [str(node.module)] * (str(node.module).split(".")[0] in BANNED) + sorted(
                names & {*UNSAFE, "yaml.load"}
            )
        elif isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            found += [name] * (name in UNSAFE)
            found += ["allow_pickle"] * (words.get("allow_pickle", "False") != "False")
            loader = words.get("Loader", ast.unparse(node.args[1]) if len(node.args) > 1 else "none")
            found += [f"yaml.load with {loader}"] * (name == "yaml.load" and loader != "_Recipe")
    return found


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "import os, dill as d", "from marshal import loads", "from torch import load", "eval('1')"),
        *("torch.load(f)", "torch.load(f, weights_only=True)", "np.load(f, allow_pickle=True)", "exec(text)"),
        *("np.load(f, allow_pickle=flag)", "yaml.load(t)", "yaml.load(t, yaml.Loader)", "yaml.load(t, Loader=L)"),
        *("from yaml import load", "yaml.unsafe_load(t)", "__import__(name)", "compile(t, n, 'exec')"),
    ],
)
def test_dangers_are_seen(source: str) -> None:
    assert dangers(source)


def test_nothing_that_is_read_can_be_run() -> None:
    modules = sorted(HOUSE.rglob("*.py"))
    assert len(modules) > 50
    assert {str(path): found for path in modules if (found := dangers(path.read_text(encoding="utf-8")))} == {}
    assert issubclass(command._Recipe, yaml.BaseLoader)
    made = set(command._Recipe.yaml_constructors) | set(command._Recipe.yaml_multi_constructors)
    assert made == {"tag:yaml.org,2002:str", "tag:yaml.org,2002:map"}  # no tag makes an object


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.usefixtures("quick_recipes")
def test_what_a_file_holds_is_not_run(whole: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it was run"
    payloads = [pickle.dumps(Trap(mark), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for entry in (path for path in whole.rglob("*") if path.is_file()):
        path = copied(whole, tmp_path / "run")
        rewritten(path / entry.relative_to(whole), payloads[2])
        examine_run(path, whole, excused=entry.name == "settings.yaml")
        shutil.rmtree(path)
    for payload in payloads:
        (tmp_path / "weights.pt").write_bytes(payload)
        assert refusal(lambda: checkpoints.weights(tmp_path / "weights.pt"), tmp_path / "weights.pt")
    tags = [f"!!python/object/apply:os.mkdir ['{mark}']", f"!!python/object/new:pathlib.Path.touch ['{mark}']"]
    for tag in tags:
        for text in (tag, f"lr: {tag}", f"name: {tag}", f"milestones: [{tag}]", f"? {tag}\n: 1"):
            (tmp_path / "recipe.yaml").write_text(text)
            refusal(lambda: command.load(tmp_path / "recipe.yaml"), tmp_path / "recipe.yaml")
    assert not mark.exists()
    pickle.loads(payloads[2])  # noqa: S301 - and the trap works
    assert mark.exists()


# What must not be written

SECRETS = {"WANDB_API_KEY": "5ec2e7" * 6 + "aaaa", "HF_TOKEN": "hf_" + "5eC2e7" * 6}


def told_secrets(*contents: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() for content in contents if secret.encode() in content]


def test_no_secret_of_the_environment_is_written(tmp_path: Path) -> None:
    flags = ("--data", "digits", "--model", "simplecnn", "--width", 2, "--epochs", 1, "--wandb", "offline")
    done = train(*flags, "--out", tmp_path, "--name", "run", **SECRETS)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"settings.yaml", "environment.json", "metrics.jsonl", STATE} <= {file.name for file in written}
    assert any(file.suffix == ".wandb" for file in written)
    assert told_secrets(done.stdout.encode(), done.stderr.encode(), *(file.read_bytes() for file in written)) == []


def test_the_doctor_tells_no_secret(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--model", "simplecnn", "--wandb", "online", "--out", str(tmp_path / "runs")]
    done = run([sys.executable, "-m", "distrib", "doctor", *flags], WANDB_BASE_URL="http://127.0.0.1:9", **SECRETS)
    assert "W&B" in done.stdout
    assert told_secrets(done.stdout.encode(), done.stderr.encode()) == []
    assert not (tmp_path / "runs").exists()
