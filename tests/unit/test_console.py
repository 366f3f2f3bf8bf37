import io
import math
import re
from typing import Any

import pytest

from distrib.insight.console import Console

HEADER = [("network", "resnet18"), ("data", "cifar10 [train]")]


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def update(number: int, epoch: int, rate: float = 100.0) -> dict[str, Any]:
    return {"kind": "update", "update": number, "epoch": epoch, "loss": 2.5, "images_per_second": rate}


def epoch(number: int, test_top1: float, **more: float) -> dict[str, Any]:
    values = {"train_loss": 1.5, "train_top1": 0.25, "test_loss": 1.25, "test_top1": test_top1, "lr": 0.05}
    return {"kind": "epoch", "epoch": number, "update": 10 * number, **values, "seconds": 20.0, **more}


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.fixture
def plain() -> io.StringIO:
    return io.StringIO()


def console(stream: io.StringIO, **options: Any) -> Console:
    return Console(HEADER, epochs=12, updates_per_epoch=10, stream=stream, **options)


def test_the_header_is_aligned(plain: io.StringIO) -> None:
    console(plain).close()
    assert lines(plain) == ["network  resnet18", "data     cifar10 [train]"]


def test_a_log_file_gets_one_plain_line_per_epoch_and_the_best_is_marked(plain: io.StringIO) -> None:
    shown = console(plain, clock=Clock())
    for number, accuracy in enumerate([0.3, 0.5, 0.4, 0.5, 0.6], start=1):
        shown.write([update(10 * number - 5, number), update(10 * number, number), epoch(number, accuracy)])
    shown.close()
    assert plain.getvalue().isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", plain.getvalue())
    told = lines(plain)[len(HEADER) :]
    assert [line[:11] for line in told] == [f"epoch {n:2}/12" for n in range(1, 6)]
    assert [line.endswith("  best") for line in told] == [True, True, False, False, True]


def test_what_an_epoch_line_says(plain: io.StringIO) -> None:
    shown = console(plain)
    # Equal work at 100 and at 300 images/s is done at 150 images/s.
    shown.write([update(1, 1, 100.0), update(2, 1, 300.0), epoch(1, 0.5, ema_test_top1=0.625)])
    shown.write([epoch(2, math.nan, test_loss=math.nan, seconds=40.0)])
    first, second = lines(plain)[len(HEADER) :]
    assert first == (
        "epoch  1/12  train 1.5000  25.00 %  test 1.2500  50.00 %  ema  62.50 %  lr 0.05  150 images/s  20 s"
        "  3 min 40 s left  best"
    )
    # 30 s an epoch on average, 10 epochs to go; no rate, for there were no updates.
    assert second == "epoch  2/12  train 1.5000  25.00 %  test nan    nan %  lr 0.05  40 s  5 min 00 s left"


def test_the_last_epoch_leaves_no_time(plain: io.StringIO) -> None:
    console(plain).write([epoch(12, 0.5)])
    assert "left" not in lines(plain)[-1]


def test_an_earlier_process_may_have_reached_the_best(plain: io.StringIO) -> None:
    console(plain, best=0.5).write([epoch(4, 0.5), epoch(5, 0.51)])
    assert [line.endswith("best") for line in lines(plain)[-2:]] == [False, True]


def test_a_long_epoch_is_heard_of_every_30_seconds(plain: io.StringIO) -> None:
    clock = Clock()
    shown = console(plain, first_update=22, clock=clock)
    for number in range(23, 31):
        clock.now += 12
        shown.write([update(number, 3)])
    told = lines(plain)[len(HEADER) :]
    assert told[0] == "epoch  3/12  update 5/10  loss 2.5000  100 images/s  1 min 00 s left"
    assert [line.split("update ")[1][:4] for line in told] == ["5/10", "8/10"]


def test_events_that_matter_get_a_line(plain: io.StringIO) -> None:
    shown = console(plain)
    shown.write([{"kind": "event", "event": "resume", "update": 57, "epoch": 3}])
    shown.write([{"kind": "event", "event": "checkpoint", "update": 60, "epoch": 3}])
    shown.write([{"kind": "event", "event": "never heard of"}, {"kind": "event"}, {"kind": "never heard of"}])
    shown.write([{"kind": "event", "event": "stop", "update": 61, "epoch": 4, "reason": "SIGTERM"}])
    shown.write([{"kind": "event", "event": "skip", "file": "[a].png"}])
    assert lines(plain)[len(HEADER) :] == [
        "resumed at update 57 (epoch 3)",
        "stopped at update 61 (epoch 4): reason SIGTERM",
        "skipped: file [a].png",
    ]


def test_a_terminal_gets_a_bar_above_which_the_lines_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = FakeTerminal()
    shown = console(stream, clock=Clock())
    shown.write([update(4, 1)])
    shown.write([update(10, 1), epoch(1, 0.5)])
    shown.close()
    drawn = stream.getvalue()
    assert "\x1b[" in drawn
    assert "cifar10 [train]" in drawn
    assert drawn.count("test 1.2500  50.00 %") == 1
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is given back"


def test_the_bar_tells_where_the_epoch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = FakeTerminal()
    shown = console(stream, clock=Clock())
    shown.write([update(14, 2)])
    # A line makes the bar draw itself anew.
    shown.write([{"kind": "event", "event": "skip"}])
    shown.close()
    words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"epoch  2/12 \S+ +4/10 +loss 2\.5000  100 images/s", words)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = FakeTerminal()
    shown = console(stream)
    shown.write([update(4, 1), epoch(1, 0.5)])
    shown.close()
    assert "\x1b" not in stream.getvalue()
    assert len(lines(stream)) == len(HEADER) + 1
