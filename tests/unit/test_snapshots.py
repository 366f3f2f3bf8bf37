import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distrib.learning.meter import EpochSums
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.snapshots import Snapshots, Timing
from distrib.learning.state import Progress, TrainState
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint, Retention
from distrib.lifecycle.ending import Failed
from distrib.lifecycle.journal import Journal, read
from distrib.lifecycle.saving import Saver
from distrib.settings import Optimization


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
    disk.save(1)
    assert not disk.snapshots.due  # until the time is over again
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


def state(weight: float, scale: float) -> TrainState:
    """A whole one, after some updates, with a scaler as fp16 has it."""
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, weight)
    progress = Progress(Plateau(1, 0.1), EarlyStop(None, 0.0), update=4, epoch=1, test_top1=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return TrainState(network, make_optimizer(network, Optimization()), None, scaler, progress)


def saved(disk: Disk, learned: TrainState) -> Checkpoint:
    """The checkpoint of a state, to which ``disk`` can go back."""
    disk.snapshots._state, disk.snapshots.facts = learned, {"data": {}, "world_size": 1}
    disk.snapshots.save(wait=True)
    return checkpoints.every(disk.folder)[-1]


def test_the_way_back_leaves_the_place_in_the_epoch_and_the_bad_updates_as_they_are(disk: Disk) -> None:
    learned = state(3.0, 2.0**9)
    saved(disk, learned)
    progress = learned.progress
    progress.update, progress.epoch, progress.bad_updates, progress.test_top1 = 11, 2, 5, 0.75
    progress.sums = EpochSums(loss=8.0, hits=3.0, images=16.0, seconds=1.5)
    nn.init.zeros_(learned.network.weight)
    assert disk.snapshots.roll_back()
    disk.journal.close()
    assert learned.network.weight.tolist() == [[3.0, 3.0]]
    assert (progress.update, progress.epoch, progress.bad_updates) == (11, 2, 5)
    assert progress.sums == EpochSums(loss=8.0, hits=3.0, images=16.0, seconds=1.5)
    assert progress.test_top1 is None  # it was that of the checkpoint's update


def test_a_run_goes_on_with_the_scale_that_fp16_had_come_to(disk: Disk) -> None:
    checkpoint = saved(disk, state(3.0, 2.0**9))
    disk.journal.close()
    fresh = state(0.0, 2.0**16)
    fresh.restore(checkpoint, disk.snapshots._processes)
    assert fresh.scaler.get_scale() == 2.0**9
