"""When a run's report is drawn while it trains, by real processes that stand in for `distrib report`."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distrib.images.workers import cores
from distrib.insight import reporter
from distrib.insight.reporter import GUESS, SHARE, Drawing, Reporter, write_report
from distrib.lifecycle.folder import RunFolder

EPOCH = {"kind": "epoch", "update": 10, "epoch": 1}
DRAWS = "import pathlib, sys; pathlib.Path(sys.argv[2], 'report.html').write_text(' '.join(sys.argv[3:]))"
FAILS = "import sys; sys.exit('error: no room')"
HANGS = "import signal; signal.pause()"


class Bench:
    """A reporter with a clock that is set by hand, and what it has noted."""

    def __init__(self, folder: Path) -> None:
        self.now, self.noted = 0.0, list[dict[str, Any]]()
        self.folder = RunFolder(folder)
        self.reporter = Reporter(self.folder, self.note, clock=lambda: self.now)

    def note(self, event: str, **facts: Any) -> None:
        self.noted.append({"event": event, **facts})

    def let_end(self) -> None:
        """Wait until the drawing that is under way has ended, without taking notice of it."""
        assert self.reporter._drawing is not None
        os.waitid(os.P_PID, self.reporter._drawing._process.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(reporter, "MAIN", tmp_path / "main.py")
    return Bench(tmp_path)


def program(bench: Bench, text: str) -> None:
    (bench.folder.path / "main.py").write_text(text)


def test_it_draws_after_an_epoch_once_that_is_cheap(bench: Bench) -> None:
    program(bench, DRAWS)
    enough = GUESS / SHARE / cores()
    bench.now = 0.9 * enough
    bench.reporter.write([EPOCH])
    assert bench.reporter._drawing is None
    bench.now = 1.1 * enough
    bench.reporter.write([{"kind": "update", "update": 11}])
    assert bench.reporter._drawing is None
    bench.reporter.write([EPOCH])
    bench.let_end()
    bench.reporter.write([{"kind": "update", "update": 12}])
    (event,) = bench.noted
    assert (event["event"], event["update"], event["epoch"]) == ("report", 10, 1)
    assert event["cpu_seconds"] > 0
    assert bench.folder.report.read_text() == "--curves"


def test_what_it_spent_delays_the_next(bench: Bench) -> None:
    program(bench, DRAWS)
    bench.now = 10 * GUESS / SHARE / cores()
    bench.reporter._spent = 9.5 * GUESS
    bench.reporter.write([EPOCH])
    assert bench.reporter._drawing is None


def test_it_gives_up_after_a_failure_and_says_why_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    program(bench, FAILS)
    bench.now = 1e6
    bench.reporter.write([EPOCH])
    bench.let_end()
    for _ in range(3):
        bench.reporter.write([EPOCH])
    assert bench.noted == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "WARNING: the report cannot be drawn (error: no room); the run goes on without it"


def test_nothing_is_drawn_into_the_report_of_a_finished_run(bench: Bench) -> None:
    program(bench, HANGS)
    bench.now = 1e6
    bench.reporter.write([EPOCH])
    pid = bench.reporter._drawing._process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    bench.reporter.write([{"kind": "event", "event": "end"}])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    bench.reporter.write([EPOCH])
    assert bench.reporter._drawing is None


def test_the_whole_report_is_waited_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    program(bench, DRAWS)
    assert write_report(bench.folder, SimpleNamespace(signal=None)) > 0
    assert bench.folder.report.read_text() == ""
    assert str(bench.folder.report) in capsys.readouterr().out
    program(bench, FAILS)
    assert write_report(bench.folder, SimpleNamespace(signal=None)) is None
    assert capsys.readouterr().err == "WARNING: there is no report: error: no room\n"


def test_a_signal_ends_the_wait(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    program(bench, HANGS)

    class Asked:
        looks = 0

        @property
        def signal(self) -> str | None:
            self.looks += 1
            return "SIGINT" if self.looks > 1 else None

    assert write_report(bench.folder, Asked()) is None
    assert "SIGINT came while it was written" in capsys.readouterr().err


def test_a_drawing_is_no_rank_and_hears_no_ctrl_c(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_PROCID", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "1")
    program(bench, "import os, sys; sys.exit(' '.join(sorted(os.environ)) + f' {os.getpgid(0) == os.getpid()}')")
    drawing = Drawing(bench.folder, curves=True)
    os.waitid(os.P_PID, drawing._process.pid, os.WEXITED | os.WNOWAIT)
    assert drawing.ended()
    words = drawing.fault().split()
    assert "KEPT" in words
    assert words[-1] == "True"
    assert not {word for word in words if word.startswith(("RANK", "WORLD", "MASTER", "TORCHEL", "SLURM", "ACCEL"))}
    drawing.close()
