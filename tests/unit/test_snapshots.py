import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distrib.learning.snapshots import Snapshots, Timing
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Retention
from distrib.lifecycle.ending import Failed
from distrib.lifecycle.journal import Journal, read
from distrib.lifecycle.saving import Saver


class Disk:
    """A journal and checkpoints on a disk that can be filled."""

    def __init__(self, folder: Path, lead: float | None = None) -> None:
        self.full = False
        self.folder = folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        self.journal = Journal(folder / "metrics.jsonl")
        self.progress = SimpleNamespace(update=0, epoch=0, finished=False)
        state = SimpleNamespace(
            tensors=lambda *_: {"model": {"weight": torch.ones(2)}},
            counters=lambda: {"update": self.progress.update, "epoch": 0, "finished": False},
            progress=self.progress,
        )
        processes = SimpleNamespace(is_main=True, size=1, agreed=lambda call: call())
        saver = Saver(self.folder, Retention(), before=self.check)
        self.snapshots = Snapshots(state, {}, processes, saver, self.journal, Timing(lead=lead))

    def check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def save(self, update: int, *, wait: bool = True) -> None:
        self.progress.update = update
        self.snapshots.save(wait=wait)

    def saved(self) -> list[tuple[int, bool]]:
        events = [record for record in read(self.folder.parent / "metrics.jsonl") if record["event"] == "checkpoint"]
        return [(event["update"], "error" in event) for event in events]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_became_of_each_save_is_noted(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    disk.save(1)
    disk.full = True
    disk.save(2)
    assert "WARNING: the checkpoint of update 2 could not be written" in capsys.readouterr().err
    disk.save(3)
    assert "WARNING: the checkpoint of update 3 could not be written" in capsys.readouterr().err
    disk.full = False
    disk.save(4)
    assert disk.saved() == [(1, False), (2, True), (3, True), (4, False)]
    assert [checkpoint.update for checkpoint in checkpoints.every(disk.folder)] == [1, 4]
    disk.journal.close()


def test_without_an_older_one_the_run_ends(disk: Disk) -> None:
    disk.full = True
    disk.save(1, wait=False)
    with pytest.raises(Failed, match=r"No space left on device\), and there is no older one\. Make room"):
        disk.save(2, wait=False)
    disk.journal.close()


def test_the_last_save_must_succeed(disk: Disk) -> None:
    disk.save(1)
    disk.full = True
    disk.save(2, wait=False)  # goes on
    disk.progress.finished = True
    with pytest.raises(Failed, match="the checkpoint of update 3 could not be written"):
        disk.save(3)
    disk.journal.close()


def test_the_one_before_the_last_need_not(disk: Disk) -> None:
    disk.save(1)
    disk.full = True
    disk.save(2)
    disk.full, disk.progress.finished = False, True
    disk.save(3)
    assert disk.saved()[-1] == (3, False)
    disk.journal.close()


def test_a_save_is_due_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path)
    assert not disk.snapshots.due  # no time was given
    disk.snapshots._minutes = 0.5
    now = disk.snapshots._saved_at
    monkeypatch.setattr("distrib.learning.snapshots.time.perf_counter", lambda: now + 29)
    assert not disk.snapshots.due
    monkeypatch.setattr("distrib.learning.snapshots.time.perf_counter", lambda: now + 31)
    assert disk.snapshots.due
    disk.journal.close()


def test_a_signal_that_would_come_too_late_to_save_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = Disk(tmp_path / "short", lead=2.0), Disk(tmp_path / "long", lead=300.0)
    for disk in (short, long):
        disk.save(1)
        disk.save(2)
        disk.journal.close()
    told = capsys.readouterr().err
    assert told.count("WARNING: to stop takes this run 5 s, but its job says so only 2 s before it ends") == 1
    assert told.count("sbatch --signal=USR2@1") == told.count("WARNING") == 1
