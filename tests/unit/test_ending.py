from types import SimpleNamespace

import pytest

from distrib.images.decoding import ImageError
from distrib.lifecycle.ending import Diverged, Ending, Failed, Finished
from distrib.lifecycle.stopping import Stopped
from distrib.settings import SettingsError


@pytest.fixture(params=["0", "1"])
def rank(request, monkeypatch):
    monkeypatch.setenv("RANK", request.param)
    return int(request.param)


def ended(error: BaseException | None) -> Ending:
    with Ending() as ending:
        if error is not None:
            raise error
    return ending


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (Finished("nothing to do"), 0),
        (SettingsError("no such thing"), 2),
        (Diverged("update 5 is not finite"), 3),
        (Stopped("asked"), 75),
    ],
)
def test_what_all_ranks_meet_the_first_says(rank, capsys, error, code):
    ending = ended(error)
    assert (ending.code, ending.together) == (code, True)
    out, err = capsys.readouterr()
    said = out + err
    assert (str(error) in said) == (rank == 0 and error is not None) or error is None
    assert "Traceback" not in said
    assert bool(err) == (code in (2, 3) and rank == 0)


def test_a_process_that_leaves_at_once_waits_for_nobody(rank):
    stopped = Stopped("asked at the start")
    stopped.at_once = True
    ending = ended(stopped)
    assert (ending.code, ending.together) == (75, False)


@pytest.mark.parametrize("error", [ImageError("a.jpg is not an image"), Failed("the disk is full")])
def test_what_one_rank_meets_it_says_itself(rank, capsys, error):
    ending = ended(error)
    assert (ending.code, ending.together) == (1, False)
    assert capsys.readouterr().err == f"error on rank {rank}: {error}\n"


def test_what_all_ranks_fail_of_is_said_once(rank, capsys):
    error = Failed("the disk is full")
    error.everywhere = True
    assert ended(error).code == 1
    assert capsys.readouterr().err == ("error: the disk is full\n" if rank == 0 else "")


def test_a_bug_has_a_traceback(rank, capsys):
    assert ended(ZeroDivisionError("bug")).code == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error on rank {rank}: Traceback")
    assert "ZeroDivisionError: bug" in err


@pytest.mark.parametrize(("blamed", "said"), [("rank 1 died", "rank 1 died\n"), ("", ""), (None, "Connection closed")])
def test_a_failed_collective_may_be_anothers_fault(rank, capsys, blamed, said):
    with Ending() as ending:
        ending.blame = lambda: blamed
        raise RuntimeError("Connection closed by peer")
    assert ending.code == 1
    err = capsys.readouterr().err
    assert (said in err) if blamed is None else (err == said)


def test_other_bugs_are_nobody_elses_fault(capsys):
    with Ending() as ending:
        ending.blame = lambda: pytest.fail("asked whose fault it was")
        raise TypeError("bug")
    assert "TypeError: bug" in capsys.readouterr().err


def test_calls_are_made_last_one_first_and_see_the_code():
    seen = []
    with Ending() as ending:
        ending.then(lambda e: seen.append(("first", e.code)))
        ending.then(lambda e: seen.append(("second", e.code)))
        raise Stopped
    assert seen == [("second", 75), ("first", 75)]


def test_one_that_fails_keeps_none_of_the_others(capsys):
    seen = []

    def fail(_: Ending) -> None:
        raise OSError("disk full")

    with Ending() as ending:
        ending.then(lambda e: seen.append((e.code, e.together)))
        ending.then(fail)
    assert seen == [(1, False)]
    assert "disk full" in capsys.readouterr().err


def test_a_run_that_is_ending_is_not_stopped_again():
    stop = SimpleNamespace(at_once=True)
    with Ending(stop):
        raise SettingsError("no such thing")
    assert stop.at_once is False


def test_what_ends_the_interpreter_is_let_through():
    with pytest.raises(SystemExit), Ending():
        raise SystemExit(4)


def test_a_refusal_while_closing_is_no_traceback(capsys):
    def close(_: Ending) -> None:
        raise SettingsError("runs/mine is no run folder")

    with Ending() as ending:
        ending.then(close)
    assert ending.code == 1
    assert capsys.readouterr().err == "error on rank 0: runs/mine is no run folder\n"
