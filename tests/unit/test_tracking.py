import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb

from distrib.insight.tracking import Tracker, mode
from distrib.lifecycle.folder import RunFolder
from tests.wandb_files import history

KEY = "0123456789abcdef" * 2 + "01234567"
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)


def update(number: int) -> dict[str, Any]:
    epoch = (number - 1) // 10 + 1
    return {"kind": "update", "update": number, "epoch": epoch, "loss": 1 / number, "lr": 0.1}


def epoch(number: int) -> dict[str, Any]:
    return {"kind": "epoch", "epoch": number, "update": 10 * number, "test_top1": 0.5, "seconds": 1.5}


def tracker(folder: Path, **options: Any) -> Tracker:
    return Tracker(RunFolder(folder), "a project", "offline", {"lr": 0.1}, **options)


def test_rows_of_an_offline_run(tmp_path: Path) -> None:
    sink = tracker(tmp_path)
    sink.write([{"kind": "event", "event": "start", "update": 0, "epoch": 1}, update(1)])
    sink.write([update(2), update(10) | {"loss": float("nan")}, epoch(1)])
    sink.close()

    (rows,) = history(tmp_path).values()
    shown = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    assert shown[0] == {"update": 1, "epoch": 1, "train/loss": 1.0, "train/lr": 0.1}
    assert [row["update"] for row in shown] == [1, 2, 10, 10]
    assert shown[3] == {"update": 10, "epoch": 1, "epoch/test_top1": 0.5, "epoch/seconds": 1.5}


def test_a_resumed_run_is_the_same_run_and_sends_nothing_twice(tmp_path: Path) -> None:
    first = tracker(tmp_path)
    first.write([update(n) for n in range(1, 11)] + [epoch(1)] + [update(n) for n in range(11, 16)])
    first.close()
    second = tracker(tmp_path)
    second.write([update(n) for n in range(6, 11)] + [epoch(1)])
    second.write([update(n) for n in range(11, 21)] + [epoch(2)])
    second.close()

    found = history(tmp_path)
    assert list(found) == [(tmp_path / "wandb" / "run_id").read_text()]
    (rows,) = found.values()
    assert [row["update"] for row in rows if "train/loss" in row] == list(range(1, 21))
    assert [row["epoch"] for row in rows if "epoch/test_top1" in row] == [1, 2]
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


def test_records_are_noted_as_sent_before_they_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = []

    class Run:
        def define_metric(self, *_: Any, **__: Any) -> None: ...

        def log(self, _: dict[str, Any]) -> None:
            noted.append(json.loads((tmp_path / "wandb" / "sent").read_text()))
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    sink = tracker(tmp_path)
    sink.write([update(1), update(2)])
    sink.close()
    sink.write([update(3)])
    assert noted == [{"update": 2, "epoch": 0}]
    assert capsys.readouterr().err.startswith("W&B: ConnectionError: the server is gone; ")


def test_failing_to_start_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise wandb.errors.CommError("no way\nthrough")

    monkeypatch.setattr(wandb, "init", init)
    sink = tracker(tmp_path)
    for n in range(1, 4):
        sink.write([update(n)])
    sink.close()
    sink.close()
    told = capsys.readouterr().err.splitlines()
    assert told == ["W&B: CommError: no way through; the run goes on without it; metrics.jsonl has everything"]


def test_a_start_that_takes_too_long_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = threading.Event()

    def init(**_: Any) -> None:
        closed.wait()
        raise wandb.errors.CommError("too late")

    monkeypatch.setattr(wandb, "init", init)
    sink = tracker(tmp_path, patience=0.01)
    sink.write([update(1)])
    sink.close()
    closed.set()
    for thread in threading.enumerate():
        if thread.name == "wandb":
            thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B: not everything was sent within 0.01 s; ")


def test_online_without_a_key_does_not_ask_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = Tracker(RunFolder(tmp_path), "a project", "online", {})
    sink.close()
    assert "no key is configured" in capsys.readouterr().err


def test_signal_handlers_stay(tmp_path: Path) -> None:
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in watched]
    tracker(tmp_path).close()
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
    assert [signal.getsignal(number) for number in watched] == before


def test_an_unreachable_server_holds_nobody_up_and_no_key_is_written(tmp_path: Path) -> None:
    script = """
import sys
import threading
from pathlib import Path
from distrib.insight.tracking import Tracker
from distrib.lifecycle.folder import RunFolder
sink = Tracker(RunFolder(Path(sys.argv[1])), "a project", "online", {}, patience=4.0)
sink.write([{"kind": "update", "update": 1, "epoch": 1, "loss": 1.0}])
sink.close()
sys.exit(75)
"""
    environment = os.environ | NOWHERE
    environment.pop("WANDB_SERVICE", None)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("W&B: ")
    assert line.endswith("metrics.jsonl has everything")
    written = [file for file in (tmp_path / "wandb").rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written if KEY.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("choice", "environment", "expected"),
    [
        ("auto", {}, "off"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": ""}, "off"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "off"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("off", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "off"),
        ("offline", {"WANDB_MODE": "disabled"}, "offline"),
        ("online", {}, "online"),
    ],
)
def test_mode(tmp_path: Path, choice: str, environment: dict[str, str], expected: str) -> None:
    assert mode(choice, {"HOME": str(tmp_path)} | environment) == expected


@pytest.mark.parametrize(
    ("machine", "environment", "expected"),
    [
        ("api.wandb.ai", {}, "online"),
        ("github.com", {}, "off"),
        ("wandb.local:8080", {"WANDB_BASE_URL": "http://wandb.local:8080"}, "online"),
        ("api.wandb.ai", {"WANDB_BASE_URL": "http://wandb.local:8080"}, "off"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_mode_by_netrc(
    tmp_path: Path, machine: str, environment: dict[str, str], expected: str, *, named: bool
) -> None:
    file = tmp_path / ("elsewhere" if named else ".netrc")
    file.write_text(f"machine {machine} login user password {KEY}\n")
    file.chmod(0o600)
    where = {"HOME": str(tmp_path)} | ({"NETRC": str(file)} if named else {})
    assert mode("auto", where | environment) == expected


def test_mode_with_a_broken_netrc(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("not a netrc file\n")
    assert mode("auto", {"HOME": str(tmp_path)}) == "off"
