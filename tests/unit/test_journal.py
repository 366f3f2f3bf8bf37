import errno
import json
import math
import os
from io import FileIO
from pathlib import Path

import pytest

from distrib.lifecycle.journal import Journal, Record, cut_back, read


class Ears:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.heard: list[Record] = []
        self.closed = 0

    def write(self, records: list[Record]) -> None:
        self.heard += records

    def close(self) -> None:
        self.closed += 1


def update(number: int) -> Record:
    return {"kind": "update", "update": number, "loss": 1.0 / number}


def test_a_record_is_a_line_whose_keys_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write([update(1), {"kind": "epoch", "update": 1, "a": 1, "Z": 2, "b": 3}])
    journal.event("start", world=2)
    journal.close()
    lines = path.read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [
        ["kind", "update", "loss"],
        ["kind", "update", "a", "Z", "b"],
        ["kind", "event", "time", "world"],
    ]
    assert json.loads(lines[2])["event"] == "start"
    assert next(read(path)) == update(1)


def test_what_is_written_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write([update(1)])
    assert list(read(path)) == [update(1)]
    journal.sync()
    journal.close()


def test_syncing_forces_all_that_was_written_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, forced = tmp_path / "metrics.jsonl", []
    journal = Journal(path)
    journal.write([update(1)])
    monkeypatch.setattr(os, "fsync", lambda file: forced.append(os.fstat(file)))
    journal.sync()
    (found,) = forced
    assert os.path.samestat(found, path.stat())
    assert found.st_size == len(path.read_bytes()) > 0
    journal.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_becomes_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write([{"kind": "update", "update": 1, "loss": value, "lr": 0.5}])
    journal.close()
    assert path.read_text() == '{"kind": "update", "update": 1, "loss": null, "lr": 0.5}\n'


def test_a_journal_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        journal = Journal(path)
        journal.write([update(number)])
        journal.close()
    assert [record["update"] for record in read(path)] == [1, 2]


def test_cutting_back_keeps_events_and_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.event("start")
    journal.write([update(1), update(2), {"kind": "epoch", "update": 2}, update(3), {"kind": "epoch", "update": 4}])
    journal.event("stop", update=4)
    journal.close()
    cut_back(path, 2, 1)
    found = [(record["kind"], record.get("update")) for record in read(path)]
    assert found == [("event", None), ("update", 1), ("update", 2), ("epoch", 2), ("event", 4)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    before = path.read_text()
    cut_back(path, 2, 1)
    assert path.read_text() == before


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps(update(1)) + "\n"
    path.write_text(whole + json.dumps(update(2)))
    assert list(read(path)) == [update(1)]
    path.write_text(whole + '{"kind": "upd')
    assert list(read(path)) == [update(1)]
    cut_back(path, 5, 2)
    journal = Journal(path)
    journal.write([update(2)])
    journal.close()
    assert list(read(path)) == [update(1), update(2)]


def test_sinks_are_shown_what_is_written_from_when_they_came(tmp_path: Path) -> None:
    early, late = Ears(), Ears()
    journal = Journal(tmp_path / "metrics.jsonl", [early])
    journal.write([update(1)])
    journal.add(late)
    journal.write([update(2), update(3)])
    journal.event("end")
    journal.write([])
    journal.close()
    assert [record.get("update") for record in early.heard] == [1, 2, 3, None]
    assert late.heard == early.heard[1:]
    assert (early.closed, late.closed) == (1, 1)


def test_without_a_path_nothing_happens() -> None:
    ears = Ears()
    journal = Journal(None, [ears])
    journal.write([update(1)])
    journal.event("start")
    journal.sync()
    journal.close()
    assert ears.heard == []


def test_an_evaluation_that_is_still_to_come_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write([update(1), {"kind": "epoch", "update": 1, "epoch": 1}, update(2)])
    journal.write([{"kind": "epoch", "update": 2, "epoch": 2}])
    journal.event("best", update=2, epoch=2)
    journal.event("checkpoint", update=2, epoch=1)
    journal.close()
    cut_back(path, 2, 1)  # a checkpoint of update 2, from before the evaluation of epoch 2
    found = [(record.get("event", record["kind"]), record["update"]) for record in read(path)]
    assert found == [("update", 1), ("epoch", 1), ("update", 2), ("checkpoint", 2)]


class Full:
    """A file on a disk that is full for a while."""

    def __init__(self, file: FileIO) -> None:
        self.file, self.full, self.name = file, False, file.name

    def write(self, content: bytes) -> int:
        if self.full:
            self.file.write(content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, ears = tmp_path / "metrics.jsonl", Ears()
    journal = Journal(path, [ears])
    journal._file = disk = Full(journal._file)
    journal.write([update(1)])
    disk.full = True
    journal.write([update(2)])
    assert "No space left on device" in capsys.readouterr().err
    assert list(read(path)) == [update(1)]  # nothing half written
    assert path.read_bytes().endswith(b"\n")
    with pytest.raises(OSError, match="cannot be written"):
        journal.sync()
    journal.write([update(3)])
    disk.full = False
    journal.close()
    assert list(read(path)) == [update(1), update(2), update(3)]
    assert ears.heard == [update(1), update(2), update(3)]


def test_a_sink_that_cannot_write_stops_nobody(tmp_path: Path) -> None:
    class Mute(Ears):
        def write(self, _records: list[Record]) -> None:
            raise BrokenPipeError

    late = Ears()
    journal = Journal(tmp_path / "metrics.jsonl", [Mute(), late])
    journal.write([update(1)])
    journal.close()
    assert late.heard == [update(1)]
