import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from distrib.lifecycle.stopping import SIGNALS, Stopped, StopRequest
from tests.launching import ROOT


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


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_sets_the_flag_once_there_is_something_to_save(number: signal.Signals) -> None:
    with StopRequest() as stop:
        stop.at_once = False
        assert stop.signal is None
        send(number)
        assert stop.signal == number.name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_before_that_it_ends_the_run_where_it_is(number: signal.Signals) -> None:
    with StopRequest() as stop:
        with pytest.raises(Stopped, match=number.name):
            send(number)
        assert stop.signal == number.name
        send(signal.SIGTERM)  # another one does not disturb what is being closed


def test_what_a_library_catches_does_not_stop_it() -> None:
    with StopRequest(), pytest.raises(Stopped):  # noqa: PT012
        try:
            send(signal.SIGTERM)
        except Exception:  # noqa: BLE001 - as a library would
            pytest.fail("a library took the request for its own error")


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


BLOCKED = """
    import os, signal, threading
    from distrib.lifecycle.stopping import StopRequest
    with StopRequest() as stop:
        stop.at_once = False
        for number in {signals}:
            os.kill(os.getpid(), number)
            while stop.signal is None:
                pass
        print("still here", flush=True)
        if {wait}:
            threading.Event().wait()  # until the thread ends this process
"""


def test_a_second_interrupt_within_three_seconds_means_now() -> None:
    done = python(BLOCKED.format(signals="[signal.SIGINT, signal.SIGINT]", wait=True))
    assert done.returncode == 130
    assert "Left at once" in done.stderr


@pytest.mark.parametrize("signals", ["[signal.SIGINT]", "[signal.SIGTERM, signal.SIGTERM]", "[signal.SIGUSR2] * 3"])
def test_less_than_that_does_not(signals: str) -> None:
    done = python(BLOCKED.format(signals=signals, wait=False))
    assert done.returncode == 0, done.stderr
    assert "still here" in done.stdout


WAITING = """
    import os, signal, socket, threading
    from datetime import timedelta
    from torch.distributed import TCPStore
    from distrib.lifecycle import stopping

    stopping.HEED = 0.1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def ask():  # once the main thread waits for another process, where no handler of Python's runs
        while socket.socket().connect_ex(("127.0.0.1", port)):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    with stopping.StopRequest() as stop:
        threading.Thread(target=ask, daemon=True).start()
        TCPStore("127.0.0.1", port, 2, is_master=True, timeout=timedelta(seconds=60))
"""


def test_a_process_that_waits_for_others_at_the_start_is_stopped() -> None:
    done = python(WAITING)
    assert done.returncode == 75, done.stderr
    assert "Stopped before the first update: nothing is lost." in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells of a parent's death")
def test_the_death_of_the_launcher_asks_to_stop(tmp_path) -> None:
    script = tmp_path / "torchrun.py"  # known by its name
    read, write = os.pipe()
    script.write_text(
        textwrap.dedent(f"""
        import os, subprocess, sys
        child = '''
        import signal
        from distrib.lifecycle.stopping import Stopped, StopRequest, end_with_launcher
        end_with_launcher()
        try:
            with StopRequest():
                print("ready", flush=True)
                signal.pause()
        except Stopped:
            print("asked to stop", flush=True)
        '''
        import textwrap
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(child)], stdout={write}, close_fds=False)
        if os.read({read}, 5) == b"ready":
            os.kill(os.getpid(), 9)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen([sys.executable, str(script)], pass_fds=(read, write), env=environment)
    assert launcher.wait(timeout=60) == -signal.SIGKILL
    os.close(write)
    with os.fdopen(read) as rest:
        assert "asked to stop" in rest.read()
