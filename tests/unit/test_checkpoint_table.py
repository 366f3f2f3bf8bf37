"""What `distrib checkpoints` says of a run, also while the run writes and prunes; and that it only reads."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from distrib.insight import checkpoint_table
from distrib.insight.checkpoint_table import human, main
from distrib.lifecycle import checkpoints

NAME = "update-{:09d}"


def write(path, update, top1=None):
    """A checkpoint as a run writes it."""
    path.mkdir(parents=True)
    save_file({"a": torch.full((64,), float(update))}, path / "model.safetensors")
    save_file({"a/momentum_buffer": torch.ones(64)}, path / "optimizer.safetensors")
    state = {"update": update, "epoch": update // 10, "finished": False, "test_top1": top1, "data": {}}
    (path / "state.json").write_text(json.dumps(state))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}
    (path / "manifest.json").write_text(json.dumps(files))
    return path


@pytest.fixture
def run(tmp_path):
    """A run folder with three checkpoints, the second of which is the best."""
    (tmp_path / "settings.yaml").write_text("epochs: 3\n")
    for update, top1 in ((10, 0.5), (20, 0.75), (25, None)):
        write(tmp_path / "checkpoints" / NAME.format(update), update, top1)
    return tmp_path


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def listed(capsys, *arguments, expect=0):
    """The rows that the command prints as JSON."""
    assert main([*map(str, arguments), "--json"]) == expect
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def contents(folder):
    return {str(file.relative_to(folder)): file.is_file() and file.read_bytes() for file in folder.rglob("*")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(checkpoint_table, "PRUNING", 0)


def meanwhile(monkeypatch, happens):
    """Have something happen between the first and the second look."""
    monkeypatch.setattr(checkpoint_table, "time", SimpleNamespace(sleep=lambda _: happens()))


def test_checkpoints_are_listed_oldest_first_with_the_best_and_the_latest(run, capsys):
    rows = listed(capsys, run)
    assert [(row["update"], row["epoch"], row["test_top1"]) for row in rows] == [
        (10, 1, 0.5),
        (20, 2, 0.75),
        (25, 2, None),
    ]
    assert [row["best"] for row in rows] == [False, True, False]
    assert [row["latest"] for row in rows] == [False, False, True]
    assert {row["fault"] for row in rows} == {None}
    folder = run / "checkpoints" / NAME.format(20)
    assert rows[1]["bytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_the_table_says_the_same_to_a_person(run, capsys):
    assert main([str(run)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("checkpoint", "update", "epoch", "test", "accuracy", "size"),
        *("a", "quick", "look,", "without", "hashes", "(--verify)"),
    ]
    assert [line.split()[:3] for line in lines] == [
        [NAME.format(10), "10", "1"],
        [NAME.format(20), "20", "2"],
        [NAME.format(25), "25", "2"],
    ]
    assert "75.00 %" in lines[1]
    assert lines[1].endswith("whole, best")
    assert lines[2].endswith("whole, latest")
    assert main([str(run), "--verify"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("every file hashed")
    assert lines[0].endswith("verified")


def test_a_changed_bit_is_found_by_hashing_alone(run, capsys):
    flip(run / "checkpoints" / NAME.format(10) / "model.safetensors")
    assert [row["fault"] for row in listed(capsys, run)] == [None] * 3
    rows = listed(capsys, run, "--verify", expect=1)
    assert [row["hashed"] for row in rows] == [True] * 3
    assert [row["fault"] for row in rows] == ["model.safetensors changed since it was written", None, None]
    assert main([str(run), "--verify"]) == 1
    first = capsys.readouterr().out.splitlines()[1]
    assert first.endswith("model.safetensors changed since it was written")


def test_a_damaged_one_is_neither_the_best_nor_the_latest(run, capsys):
    for update in (20, 25):
        flip(run / "checkpoints" / NAME.format(update) / "model.safetensors")
    rows = listed(capsys, run, "--verify", expect=1)
    assert [(row["best"], row["latest"]) for row in rows] == [(True, True), (False, False), (False, False)]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_found_at_a_glance(run, capsys, name):
    (run / "checkpoints" / NAME.format(20) / name).unlink()
    faults = [row["fault"] for row in listed(capsys, run, expect=1)]
    assert faults[1] is not None
    assert faults[::2] == [None, None]


@pytest.mark.parametrize("text", ["", "[]", "null", '{"epoch": {}}', "\xff"])
def test_a_state_of_rubbish_is_told_and_no_crash(run, capsys, text):
    (run / "checkpoints" / NAME.format(25) / "state.json").write_text(text, encoding="latin-1")
    assert listed(capsys, run, expect=1)[2]["epoch"] is None


def test_what_else_lies_there_is_listed_and_no_reason_to_fail(run, capsys):
    folder = run / "checkpoints"
    flip(write(folder / f"damaged-{NAME.format(15)}", 15) / "model.safetensors")
    (folder / f".partial-{NAME.format(30)}").mkdir()
    write(folder / f".before-{NAME.format(25)}", 25)
    (folder / "notes").mkdir()
    rows = {row["name"]: row for row in listed(capsys, run, "--verify")}
    assert [row["kind"] for row in rows.values()] == ["checkpoint"] * 3 + ["before", "partial", "damaged"]
    assert rows[f"damaged-{NAME.format(15)}"]["fault"] == "model.safetensors changed since it was written"
    assert rows[f"damaged-{NAME.format(15)}"]["update"] == 15
    assert main([str(run), "--verify"]) == 0
    told = capsys.readouterr().out
    assert "set aside as damaged: model.safetensors changed" in told
    assert "unfinished: being written" in told


def test_it_only_reads(run):
    folder = run / "checkpoints"
    flip(folder / NAME.format(20) / "model.safetensors")
    (folder / f".partial-{NAME.format(30)}").mkdir()
    write(folder / f".before-{NAME.format(40)}", 40)
    before = contents(run)
    assert main([str(run), "--verify"]) == 1
    assert contents(run) == before


def test_what_is_pruned_between_listing_and_reading_is_left_out(run, capsys, monkeypatch):
    found = checkpoints.every(run / "checkpoints")
    monkeypatch.setattr(checkpoints, "every", lambda _: found)
    shutil.rmtree(found[0].path)
    assert [row["update"] for row in listed(capsys, run)] == [20, 25]


def test_what_is_being_pruned_is_looked_at_again_before_it_is_called_damaged(run, capsys, monkeypatch):
    half_gone = run / "checkpoints" / NAME.format(10)
    (half_gone / "model.safetensors").unlink()
    meanwhile(monkeypatch, lambda: shutil.rmtree(half_gone))
    assert [row["update"] for row in listed(capsys, run)] == [20, 25]


def test_what_is_being_replaced_is_looked_at_again(run, capsys, monkeypatch):
    latest = run / "checkpoints" / NAME.format(25)
    whole = latest.rename(run / "elsewhere")
    shutil.copytree(whole, latest)
    (latest / "manifest.json").unlink()

    def replace():
        shutil.rmtree(latest)
        whole.rename(latest)

    meanwhile(monkeypatch, replace)
    assert [row["update"] for row in listed(capsys, run)] == [10, 20, 25]


def test_a_run_without_checkpoints_has_none_yet(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert main([str(run)]) == 0
    assert "no checkpoint yet" in capsys.readouterr().out
    assert listed(capsys, run) == []


@pytest.mark.parametrize("place", ["nowhere", ".", "settings.yaml"])
def test_what_is_no_run_is_refused(tmp_path, capsys, place):
    (tmp_path / "checkpoints").mkdir()
    assert main([str(tmp_path / place)]) == 2
    assert "is no run folder: it holds no settings.yaml" in capsys.readouterr().err


def test_sizes_are_for_people():
    assert [human(size) for size in (0, 999, 1500, 2_500_000, 7_250_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "7.2 GB",
    ]
