"""What is written is read back as it was: settings, checkpoints and journals, whatever they hold."""

import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from distrib import command
from distrib.learning.copies import on_host
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import MANIFEST, Checkpoint, Retention
from distrib.lifecycle.journal import HISTORY, Journal, cut_back, read
from distrib.settings import (
    Augmentation,
    Compute,
    Data,
    Lifecycle,
    Model,
    Optimization,
    Schedule,
    Settings,
    Tracking,
)
from distrib.settings import Policy as Policies
from distrib.zoo import names

examples = partial(limits, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


# Settings: every field of every group takes any value that it may have

# What an argument of a command may hold: any character but NUL, and what stands for bytes that are no UTF-8.
ALPHABET = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("\udc80\udcff")
TEXTS = st.text(ALPHABET, max_size=12) | st.sampled_from(
    ["null", "~", "true", "3", "1e3", "-x", "--lr", "{a: b}", "# x"]
)
PATHS = TEXTS.map(Path)
FOLDERS = st.text(ALPHABET, min_size=1, max_size=12).filter(lambda t: t.isprintable() and "/" not in t and t[0] != ".")
COUNTS, WHOLE = st.integers(1, 10**6), st.integers(0, 10**6)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
ANY_POSITIVE = POSITIVE | st.just(0.0)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Or nothing. The word None means nothing on a command line, and so is no name."""
    return st.none() | values.filter(lambda value: str(value) != "None")


@st.composite
def models(draw: st.DrawFn) -> Model:
    if draw(st.booleans()):
        return Model(model=draw(TEXTS.map(names.TORCHVISION.__add__)), pretrained=draw(st.booleans()))
    stem = draw(st.sampled_from(["auto", "cifar", "imagenet"]))
    first = draw(st.sampled_from(["drawn", "identity", "whitened", "both"]))
    return Model(
        model="speednet" if first in ("whitened", "both") else draw(st.sampled_from(names.OWN)),
        width=draw(optional(COUNTS)),
        stem=stem,
        first_weights=first,
    )


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    crop = draw(st.sampled_from(["auto", "pad", "resized", "none"]))
    pads = crop in ("auto", "pad")
    return Augmentation(
        crop=crop,
        crop_padding=draw(optional(COUNTS)) if pads else None,
        padding_mode=draw(st.sampled_from(["zero", "reflect"])) if pads else "zero",
        flip=draw(st.sampled_from(["auto", "none", "random", "alternating"])),
        cutout=draw(WHOLE),
        policy=draw(st.sampled_from(get_args(Policies))),
        start_size=draw(optional(st.integers(8, 10**4))),
    )


@st.composite
def learning(draw: st.DrawFn) -> tuple[Optimization, Schedule]:
    epochs, lr = draw(COUNTS), draw(POSITIVE)
    optimizer = draw(st.sampled_from(["sgd", "adam", "adamw", "muon"]))
    momentum = draw(SHARES if optimizer == "muon" else SHARES | st.just(0.0))
    schedule = draw(st.sampled_from(["onecycle", "cosine", "linear", "restarts", "multistep", "plateau", "constant"]))
    assume(schedule != "multistep" or epochs > 1)
    steps = st.sets(st.integers(1, max(epochs - 1, 1)), min_size=1, max_size=5)
    optimization = Optimization(
        epochs=epochs,
        batch_size=draw(COUNTS),
        micro_batch=draw(optional(COUNTS)),
        optimizer=optimizer,
        lr=lr,
        bias_lr=draw(optional(POSITIVE)),
        momentum=momentum,
        nesterov=draw(st.booleans()) and optimizer == "sgd" and momentum > 0,
        weight_decay=draw(ANY_POSITIVE),
        decay_norms=draw(st.booleans()),
        clip_norm=draw(optional(POSITIVE)),
        clip_value=draw(optional(POSITIVE)),
        label_smoothing=draw(SHARES | st.just(0.0)),
        ema_decay=draw(optional(SHARES)),
    )
    return optimization, Schedule(
        schedule=schedule,
        warmup_epochs=draw(st.floats(0, epochs, exclude_max=True)),
        pct_start=draw(SHARES),
        min_lr=draw(st.floats(0, lr)),
        restart_epochs=draw(COUNTS),
        restart_multiplier=draw(COUNTS),
        milestones=tuple(sorted(draw(steps))) if schedule == "multistep" else (),
        gamma=draw(SHARES),
        plateau_patience=draw(WHOLE),
        early_stop_patience=draw(optional(COUNTS)),
        early_stop_delta=draw(ANY_POSITIVE),
    )


@st.composite
def all_settings(draw: st.DrawFn) -> Settings:
    model, (optimization, schedule) = draw(models()), draw(learning())
    device = draw(st.sampled_from(["auto", "cpu", "cuda", "mps"]))
    precisions = ["auto", "fp32", "bf16"] + ["fp16"] * (device != "cpu")
    places = TEXTS.filter(bool)
    exact = draw(st.booleans())
    modes = ["none", "default"] + ["reduce-overhead"] * (not exact and optimization.micro_batch is None)
    return Settings(
        model=model,
        data=Data(
            data=draw(
                st.sampled_from(["auto", "cifar10", "cifar100", "digits", "synthetic"])
                | places.map("folder:".__add__)
                | places.map("hf:".__add__)
            ),
            data_root=draw(PATHS),
            image_size=draw(optional(st.integers(8, 10**4))),
            train_images=draw(optional(COUNTS)),
            test_images=draw(optional(COUNTS)),
            loading=draw(st.sampled_from(["auto", "memory", "workers"])),
            workers=draw(optional(WHOLE)),
            on_bad_image=draw(st.sampled_from(["stop", "skip"])),
        ),
        augmentation=draw(augmentations()),
        optimization=optimization,
        schedule=schedule,
        compute=Compute(
            device=device,
            precision=draw(st.sampled_from(precisions)),
            channels_last=draw(st.booleans()),
            compile=draw(st.sampled_from(modes)),
            threads=draw(optional(COUNTS)),
            keep_pages=draw(st.booleans()),
            seed=draw(st.integers(0, 2**32 - 1)),
            comm="fp32" if exact else draw(st.sampled_from(["fp32", "bf16", "powersgd"])),
            exact=exact,
            virtual_ranks=2 ** draw(st.integers(0, 12)) if exact else 8,
            accept_inexact=exact and draw(st.booleans()),
        ),
        lifecycle=Lifecycle(
            name=draw(optional(FOLDERS)),
            out=draw(PATHS),
            init=None if model.pretrained else draw(optional(PATHS)),
            save_every=draw(COUNTS),
            save_every_minutes=draw(optional(POSITIVE)),
            keep=draw(COUNTS),
            keep_every=draw(optional(COUNTS)),
            log_every=draw(COUNTS),
            on_divergence=draw(st.sampled_from(["stop", "skip", "rollback"])),
            max_bad_updates=draw(COUNTS),
            hang_timeout=draw(st.floats(5, allow_infinity=False)),
        ),
        tracking=Tracking(
            report=draw(st.booleans()),
            wandb=draw(st.sampled_from(["auto", "off", "offline", "online"])),
        ),
    )


def printed(arguments: list[str]) -> str:
    """What the command prints with these arguments and --print-settings."""
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as leaving:
        command.parse([*arguments, "--print-settings"])
    assert leaving.value.code == 0
    return out.getvalue()


@examples(max_examples=50)
@given(settings=all_settings())
def test_settings_come_back_from_their_file_from_flags_and_from_what_is_printed(
    tmp_path: Path, settings: Settings
) -> None:
    path, again = tmp_path / "settings.yaml", tmp_path / "again.yaml"
    path.write_text(command.dump(settings), encoding="utf-8")
    assert command.load(path) == settings
    assert command.parse(command._flags(path)) == settings
    again.write_text(printed([f"--config={path}"]), encoding="utf-8")
    assert again.read_bytes() == path.read_bytes()


def test_no_setting_is_left_out() -> None:
    seen: dict[str, set[str]] = {}

    @limits(max_examples=300, derandomize=True, deadline=None, database=None)
    @given(settings=all_settings())
    def collect(settings: Settings) -> None:
        for name, value in settings.flat().items():
            seen.setdefault(name, set()).add(repr(value))

    collect()
    assert set(seen) == set(Settings().flat())
    assert {name for name, values in seen.items() if len(values) < 2} == set()


# Checkpoints

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
KINDS += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
KINDS += [torch.bool, torch.complex64]
TENSOR_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["a.b.c", "a/b/momentum_buffer", "..", "../x", "a b", "é\n", "__metadata", "\0"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits of any type and shape, as they may lie in memory."""
    kind, shape = (
        draw(st.sampled_from(KINDS)),
        draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    )
    size = math.prod(shape) * kind.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if kind == torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    tensor = torch.frombuffer(bytearray(raw), dtype=kind) if size else torch.empty(0, dtype=kind)
    tensor = tensor.reshape(shape)
    lie = draw(st.sampled_from(["as it is", "turned", "every second", "channels last", "a part"]))
    if lie == "turned":
        return tensor.permute(tuple(reversed(range(tensor.ndim))))
    if lie == "every second" and tensor.ndim:
        return tensor[::2]
    if lie == "channels last" and tensor.ndim == 4:
        return tensor.to(memory_format=torch.channels_last)
    return tensor[..., 1:] if lie == "a part" and tensor.ndim else tensor


GROUPS = st.fixed_dictionaries(
    {"model": st.dictionaries(TENSOR_NAMES, tensors(), min_size=1, max_size=4)},
    optional={
        name: st.dictionaries(TENSOR_NAMES, tensors(), max_size=3) for name in ("optimizer", "ema", "statistics")
    },
)
STATES = st.builds(
    lambda rest, update, epoch, finished, data: (
        rest | {"update": update, "epoch": min(update, epoch), "finished": finished, "data": data}
    ),
    st.dictionaries(st.text(), JSON, max_size=4).filter(lambda rest: not {"world_size", "threads"} & set(rest)),
    st.integers(0, 10**12),
    st.integers(0, 1000),
    st.booleans(),
    st.dictionaries(st.text(), JSON, max_size=3),
)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return (
        tensor.dtype,
        tensor.shape,
        tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def all_bits(group: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: bits(tensor) for name, tensor in group.items()}


def save(folder: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Checkpoint:
    on_the_host = {name: on_host(group) for name, group in groups.items()}
    return checkpoints.save(folder, on_the_host, state, Retention(newest=1))


@examples(max_examples=200)
@given(groups=GROUPS, state=STATES)
def test_a_checkpoint_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    saved = save(folder, groups, state)
    assert saved.fault() is saved.fault(hashes=False) is None
    assert saved.state == json.loads(json.dumps(state)) == state
    assert saved.update == state["update"]
    for name in ("model", "optimizer", "ema", "statistics"):
        assert all_bits(saved.tensors(name)) == all_bits(groups.get(name, {}))
    assert checkpoints.newest(folder) == (saved, [])
    assert all_bits(checkpoints.weights(saved.path)) == all_bits(groups["model"])


def harmless(name: str, before: bytes, after: bytes) -> bool:
    """White space in a manifest: all that it vouches for is as it was."""
    try:
        return name == MANIFEST and json.loads(after) == json.loads(before)
    except ValueError:
        return False


@examples(max_examples=100)
@given(groups=GROUPS, state=STATES, draw=st.data())
def test_a_byte_that_changes_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    groups: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    draw: st.DataObject,
) -> None:
    saved = save(tmp_path_factory.mktemp("checkpoints"), groups, state)
    file = draw.draw(st.sampled_from(sorted(saved.path.iterdir())))
    before = file.read_bytes()
    place, change = draw.draw(st.integers(0, len(before) - 1)), draw.draw(st.integers(1, 255))
    after = bytearray(before)
    after[place] ^= change
    file.write_bytes(after)
    assert (saved.fault() is None) == harmless(file.name, before, after)
    file.write_bytes(before)
    assert saved.fault() is None


def test_a_bit_that_changes_is_found_wherever_it_is(tmp_path: Path) -> None:
    state = {"update": 12, "epoch": 3, "finished": False, "data": {}, "test_top1": 0.5}
    groups = {"model": {"a": torch.arange(3.0)}, "optimizer": {"a/x": torch.zeros(2)}, "ema": {"a": torch.ones(3)}}
    saved, changed = save(tmp_path, groups, state), 0
    for file in sorted(saved.path.iterdir()):
        before = file.read_bytes()
        for place in range(len(before)):
            after = bytearray(before)
            after[place] ^= 1 << place % 8
            file.write_bytes(after)
            assert (saved.fault() is None) == harmless(file.name, before, after), (file.name, place)
            changed += 1
        file.write_bytes(before)
        for length in range(len(before)):
            file.write_bytes(before[:length])
            assert saved.fault() is not None, (file.name, length)
        file.write_bytes(before)
    assert saved.fault() is None
    assert changed > 600


# Journals

FIGURES = st.floats() | st.none() | st.integers() | st.text() | st.lists(st.floats(), max_size=3)
VALUES = FIGURES | st.dictionaries(st.text(), FIGURES, max_size=2)
REST = st.dictionaries(
    st.text().filter(lambda key: key not in ("kind", "event", "update", "epoch")), VALUES, max_size=4
)
NUMBERS = st.integers(0, 20)
EVENTS = st.sampled_from([*HISTORY, "checkpoint", "best", "skip", "rollback"]) | st.text()
RECORDS = st.builds(
    lambda kind, update, epoch, rest: {"kind": kind, "update": update, "epoch": epoch, **rest},
    st.sampled_from(["update", "epoch"]) | st.text().filter(lambda kind: kind != "event"),
    NUMBERS,
    st.integers(0, 5),
    REST,
) | st.builds(
    lambda event, update, rest: {"kind": "event", "event": event, **update, **rest},
    EVENTS,
    st.fixed_dictionaries({}, optional={"update": NUMBERS, "epoch": st.integers(0, 5)}),
    REST,
)
BATCHES = st.lists(st.lists(RECORDS, max_size=6), max_size=6)


def finite(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list) else value


def write(path: Path, batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Write each batch as a process of its own would; return what should be read."""
    path.unlink(missing_ok=True)
    path.touch()
    for batch in batches:
        journal = Journal(path)
        journal.write(batch)
        journal.close()
    return [finite(record) for batch in batches for record in batch]


def stays(record: dict[str, Any], update: int, epoch: int) -> bool:
    """Whether a record is of the run's history, or of what need not be computed again."""
    if record.get("event") in HISTORY:
        return True
    scored = record["kind"] == "epoch" or record.get("event") == "best"
    return record.get("update", 0) <= update and (not scored or record.get("epoch", 0) <= epoch)


@examples(max_examples=200)
@given(batches=BATCHES, torn=st.binary(max_size=30).filter(lambda text: b"\n" not in text))
def test_records_come_back_and_an_unfinished_line_is_left_out(
    tmp_path: Path, batches: list[list[dict[str, Any]]], torn: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    expected = write(path, batches)
    assert list(read(path)) == expected
    with path.open("ab") as file:
        file.write(torn)
    assert list(read(path)) == expected


@examples(max_examples=200)
@given(batches=BATCHES, update=NUMBERS, epoch=st.integers(0, 5), less=NUMBERS)
def test_cutting_back_keeps_what_need_not_be_computed_again(
    tmp_path: Path, batches: list[list[dict[str, Any]]], update: int, epoch: int, less: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    expected = write(path, batches)
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as file:
        file.write(b'{"kind": "update", "update": 1')
    cut_back(path, update, epoch)
    kept = [line for line, record in zip(lines, expected, strict=True) if stays(record, update, epoch)]
    assert path.read_bytes() == b"".join(kept)
    cut_back(path, update, epoch)
    assert path.read_bytes() == b"".join(kept)
    cut_back(path, min(update, less), epoch)
    assert list(read(path)) == [record for record in expected if stays(record, min(update, less), epoch)]


@examples(max_examples=100)
@given(
    batches=BATCHES,
    rubbish=st.lists(
        st.tuples(st.integers(0, 40), st.binary(max_size=20).map(lambda b: b"\xff" + b.replace(b"\n", b""))), max_size=4
    ),
)
def test_rubbish_between_the_lines_costs_no_line(
    tmp_path: Path, batches: list[list[dict[str, Any]]], rubbish: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "metrics.jsonl"
    expected = write(path, batches)
    lines = path.read_bytes().splitlines(keepends=True)
    for place, text in rubbish:
        lines.insert(min(place, len(lines)), text + b"\n")
    path.write_bytes(b"".join(lines))
    cut_back(path, 20, 5)
    assert list(read(path)) == expected
