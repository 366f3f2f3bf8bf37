"""Grids, and where the runs of a sweep are, from their folders alone."""

import json
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from distrib import command
from distrib.insight import grids, sweep
from distrib.insight.grids import Sweep, Task, read_grid
from distrib.insight.sweep_table import Standing, standing, table
from distrib.settings import SettingsError
from tests.launching import ROOT

GRIDS = sorted((ROOT / "configs" / "sweeps").rglob("*.yaml"))


def grid(tmp_path: Path, text: str) -> Sweep:
    (tmp_path / "rates.yaml").write_text(text)
    return read_grid(tmp_path / "rates.yaml", tmp_path / "runs")


def test_every_combination_is_a_run_named_by_what_tells_it_apart(tmp_path: Path) -> None:
    found = grid(
        tmp_path,
        "common: {config: configs/quickstart.yaml, epochs: 3, schedule: multistep, milestones: [1, 2]}\n"
        "runs: [{model: simplecnn}, {model: torchvision/alexnet, pretrained: false}]\n"
        "grid: {lr: [1e-1, 0.05], seed: [0]}\n",
    )
    assert found.folder == tmp_path / "runs" / "rates"
    assert [task.name for task in found.tasks] == [
        "model=simplecnn,lr=1e-1,seed=0",
        "model=simplecnn,lr=0.05,seed=0",
        "model=torchvision-alexnet,pretrained=false,lr=1e-1,seed=0",
        "model=torchvision-alexnet,pretrained=false,lr=0.05,seed=0",
    ]
    flags = found.command_flags(found.tasks[3])
    assert flags[:6] == [
        "--config=configs/quickstart.yaml",
        "--epochs=3",
        "--schedule=multistep",
        "--milestones",
        "1",
        "2",
    ]
    assert {"--model=torchvision/alexnet", "--no-pretrained", "--lr=0.05", "--seed=0"} <= set(flags)
    settings = command.parse(flags)
    assert (settings.lifecycle.out, settings.lifecycle.name) == (found.folder, found.tasks[3].name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grids: {lr: [1]}", "unknown key 'grids'; did you mean 'grid'"),
        ("grid: {lr: 0.1}", "each setting of grid has a list of values"),
        ("grid: {lr: []}", "each setting of grid has a list of values"),
        ("runs: [1]", "runs is a list of such"),
        ("runs: {lr: 1}", "runs is a list of such"),
        ("grid: {learning_rat: [1]}", "unknown key 'learning_rat'"),
        ("common: {name: x}", "no name: each run is named by what tells it from the others"),
        ("grid: {lr: [0.1, 0.1]}", "more than one run is lr=0.1"),
    ],
)
def test_what_is_no_grid_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        grid(tmp_path, text)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.parent.name + path.stem)
def test_the_grids_that_come_along_can_be_trained(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = read_grid(path, tmp_path)
    assert len(found.tasks) > 1
    grids.check(found)
    line = f"# command:  distrib sweep {path.relative_to(ROOT)}"
    assert {line, f"{line} --local"} & set(path.read_text().splitlines())


def test_an_impossible_run_is_refused_before_any_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("grid: {lr: [0.1, -1]}\n")
    with pytest.raises(SystemExit) as ended:
        sweep.main([str(tmp_path / "bad.yaml"), "--out", str(tmp_path), "--local"])
    assert ended.value.code == 2
    assert "--lr" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_a_sweep_that_is_refused_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.yaml").write_text("grid: {lr: [0.1, 0.2]}\n")
    words = [str(tmp_path / "some.yaml"), "--out", str(tmp_path), "--local", "--", "--time=1"]
    assert sweep.main(words) == 2
    assert "is for sbatch" in capsys.readouterr().err
    assert not (tmp_path / "some").exists()


def test_a_folder_keeps_its_sweep(tmp_path: Path) -> None:
    found = Sweep(tmp_path / "rates", [Task("lr=1", ["--lr=1"])])
    grids.write(found)
    grids.write(found)
    assert grids.load(found.folder) == found
    with pytest.raises(SettingsError, match="holds a sweep with other runs"):
        grids.write(Sweep(found.folder, [Task("lr=2", ["--lr=2"])]))
    (found.folder / "sweep.json").write_text("[1]")
    with pytest.raises(SettingsError, match="is not what `distrib sweep` wrote"):
        grids.load(found.folder)
    with pytest.raises(SettingsError, match="is no folder of a sweep"):
        grids.load(tmp_path)


def test_where_a_run_is_follows_from_its_folder(tmp_path: Path) -> None:
    task = Task("one", [])
    found = Sweep(tmp_path, [task])
    folder = found.run(task)

    def state() -> tuple[str, str]:
        seen = standing(found, task)
        return seen.state, seen.note

    assert state() == ("waiting", "")
    found.outcome(task).write_text("2\n")
    assert state() == ("failed", "exit code 2")
    (folder / "heartbeats").mkdir(parents=True)
    beat = {"rank": 0, "host": "a", "pid": 1, "beat": 1, "phase": "update", "update": 3, "seconds": 0.1}
    heartbeat = folder / "heartbeats" / "rank-0.json"
    heartbeat.write_text(json.dumps(beat | {"time": time.time()}))
    assert state() == ("running", "")
    heartbeat.write_text(json.dumps(beat | {"time": time.time(), "left": 2}))
    assert state() == ("failed", "exit code 2")
    heartbeat.write_text(json.dumps(beat | {"time": time.time() - 1000}))
    found.outcome(task).write_text("75\n")
    first = {"kind": "epoch", "epoch": 1, "update": 2, "test_top1": 0.9, "seconds": 2.0}
    second = {"kind": "epoch", "epoch": 2, "update": 4, "test_top1": 0.5, "seconds": 1.5}
    stop = {"kind": "event", "event": "stop", "update": 4, "epoch": 2, "exit_code": 75}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (first, second, stop)))
    assert state() == ("waiting", "goes on from epoch 2")
    seen = standing(found, task)
    assert (seen.epoch, seen.best_top1, seen.best_epoch, seen.seconds) == (2, 0.9, 1, 3.5)
    found.outcome(task).unlink()
    failed = {"kind": "event", "event": "diverged", "update": 4, "epoch": 2, "exit_code": 3}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(failed) + "\n")
    assert state() == ("failed", "exit code 3")
    checkpoint = folder / "checkpoints" / "update-000000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"finished": True}))
    assert state() == ("done", "")


def test_the_table_counts_the_runs_and_names_the_best() -> None:
    scores = {"bad": (0.5, 2), "good": (0.9, 1), "new": (None, None)}
    told = table([Standing(Task(name, []), "waiting", 2, *best, 90.0, "") for name, best in scores.items()])
    rows = told.splitlines()
    assert "50.00 % (epoch 2)" in rows[1]
    assert "90.00 % (epoch 1)" in rows[2]
    assert rows[3].split() == ["new", "waiting", "2", "-", "1.5"]
    assert rows[-1] == "3 runs: 0 done, 0 running, 3 waiting, 0 failed; best so far: good"


@pytest.mark.parametrize(("outlives", "code"), [(True, 0), (False, 75)])
def test_a_closed_terminal_stops_a_sweep_unless_it_was_told_to_outlive_it(
    tmp_path: Path, *, outlives: bool, code: int
) -> None:
    asked = SimpleNamespace(outcome=lambda _: tmp_path / "outcome", command_flags=lambda _: [])
    closes = "import os, signal; signal.signal(1, signal.SIG_IGN); os.kill(os.getppid(), signal.SIGHUP)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if outlives else lambda *_: None)
    try:
        assert sweep.train(asked, None, [sys.executable, "-c", closes]) == code
    finally:
        signal.signal(signal.SIGHUP, before)
