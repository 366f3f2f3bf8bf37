import os
import signal
from collections.abc import Iterator

import pytest

from distrib.lifecycle.stopping import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Signals that find no handler of ours must not end the tests."""
    old = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    for _ in range(1000):  # Python runs a handler between two instructions
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert stop.signal is None
        send(number)
        assert stop.signal == number.name


def test_other_signals_keep_their_handlers() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest():
        assert signal.getsignal(signal.SIGUSR1) == before


def test_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert all(signal.getsignal(n) != old for n, old in zip(SIGNALS, before, strict=True))
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_old_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError, match="bug"), StopRequest():
        raise RuntimeError("bug")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_interrupt_means_now() -> None:
    with StopRequest() as stop:
        send(signal.SIGINT)
        assert stop.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_an_interrupt_long_after_the_first_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1010.0, 1011.0])
    monkeypatch.setattr("distrib.lifecycle.stopping.time.monotonic", lambda: next(clock))
    with StopRequest() as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert stop.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_termination_only_asks_again() -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGUSR2)
        assert stop.signal == "SIGUSR2"


def test_an_interrupt_after_a_termination_does_not_mean_now() -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.signal == "SIGINT"
