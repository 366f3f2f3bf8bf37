import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Retention
from distrib.lifecycle.saving import Saver

GROUPS = {"model": {"weight": torch.ones(3)}}


def state(update: int) -> dict[str, Any]:
    return {"update": update, "epoch": 1, "finished": False, "data": {}, "test_top1": None}


def at_once() -> None:
    """The copies are there."""


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_nothing_under_way_has_no_outcome(tmp_path: Path) -> None:
    assert Saver(tmp_path, Retention(), before=lambda: None).outcome(wait=True) is None


def test_saving_does_not_keep_the_caller_waiting(tmp_path: Path) -> None:
    gate = threading.Event()
    saver = Saver(tmp_path, Retention(), before=lambda: gate.wait() and None)
    saver.save(GROUPS, state(3), at_once)
    assert saver.outcome(wait=False) is None  # it is still at the gate
    assert checkpoints.every(tmp_path) == []
    gate.set()
    saved = saver.outcome(wait=True)
    assert saved is not None
    assert (saved.update, saved.epoch, saved.error) == (3, 1, None)
    assert saved.seconds > 0
    assert [c.update for c in checkpoints.every(tmp_path)] == [3]
    assert saver.outcome(wait=True) is None  # told once


def test_nothing_is_written_before_the_copies_are_there(tmp_path: Path) -> None:
    gate = threading.Event()
    saver = Saver(tmp_path, Retention(), before=lambda: None)
    copies = {"model": {"weight": torch.zeros(3)}}

    def copied() -> None:
        gate.wait()
        copies["model"]["weight"].fill_(7.0)

    saver.save(copies, state(3), copied)
    gate.set()
    saver.outcome(wait=True)
    assert checkpoints.every(tmp_path)[0].tensors("model")["weight"].tolist() == [7.0, 7.0, 7.0]


def test_copies_that_could_not_be_made_are_not_written(tmp_path: Path) -> None:
    def copied() -> None:
        raise MemoryError

    saver = Saver(tmp_path, Retention(), before=lambda: None)
    saver.save(GROUPS, state(3), copied)
    with pytest.raises(MemoryError):
        saver.outcome(wait=True)
    assert checkpoints.every(tmp_path) == []


def test_there_is_at_most_one_in_flight(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Retention(), before=lambda: None)
    saver.save(GROUPS, state(1), at_once)
    with pytest.raises(AssertionError):
        saver.save(GROUPS, state(2), at_once)
    saver.outcome(wait=True)


def test_on_a_full_disk_the_older_one_stands_and_the_next_save_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, Retention(), before=lambda: None)
    saver.save(GROUPS, state(1), at_once)
    saver.outcome(wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sync", full)
        saver.save(GROUPS, state(2), at_once)
        saved = saver.outcome(wait=True)
        assert saved is not None
        assert saved.error is not None
        assert "update 2 could not be written" in saved.error
        assert "No space left" in saved.error
    saver.save(GROUPS, state(3), at_once)
    saver.outcome(wait=True)
    assert [c.update for c in checkpoints.every(tmp_path)] == [1, 3]


def test_a_bug_in_the_thread_is_not_lost(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Retention(), before=lambda: None)
    saver.save({"model": {"weight": "no tensor"}}, state(1), at_once)
    with pytest.raises(AttributeError, match="contiguous"):
        saver.outcome(wait=True)
    assert saver.outcome(wait=True) is None  # it is told once


def test_what_lies_beside_it_is_written_first(tmp_path: Path) -> None:
    seen = []
    saver = Saver(tmp_path, Retention(), before=lambda: seen.append(checkpoints.every(tmp_path)))
    saver.save(GROUPS, state(1), at_once)
    saver.outcome(wait=True)
    assert seen == [[]]
