"""Histories: the columns are what the journal says, however long it is."""

import json
import math
import sys

import numpy as np
import pytest

from distrib.insight.history import COLUMNS, load_history, thin
from distrib.lifecycle import journal
from distrib.lifecycle.journal import Journal
from distrib.settings import SettingsError
from tests.launching import run


def write(path, updates):
    """A journal of so many updates, with an epoch and an event at each end."""
    written = Journal(path)
    written.event("start", update=0, epoch=0, world_size=1)
    written.write(
        [
            {
                "kind": "update",
                "update": n,
                "epoch": 1 + n // 10,
                "loss": 1 / n,
                "lr": 0,
                "momentum": 0.9,
                "checksum": 7,
            }
            for n in range(1, updates + 1)
        ]
    )
    written.write([{"kind": "epoch", "epoch": 1, "update": 10, "test_top1": 0.5}])
    written.event("end", update=updates, epoch=1, exit_code=0)
    written.close()
    return path


def test_nobody_waits_for_pandas(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 25)
    program = "import pathlib, sys\nfrom distrib.insight.history import load_history\n"
    program += "print(len(load_history(pathlib.Path(sys.argv[1])).updates['loss']), 'pandas' in sys.modules)"
    assert run([sys.executable, "-c", program, str(path)]).stdout == "25 False\n"


def test_columns_are_what_the_records_say(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 25)
    history, records = load_history(path), list(journal.read(path))
    updates = [record for record in records if record["kind"] == "update"]
    assert set(history.updates) == set(COLUMNS)
    for name in ("update", "epoch", "loss", "lr", "momentum"):
        assert history.updates[name].tolist() == [record[name] for record in updates]
    assert np.isnan(history.updates["grad_norm"]).all()
    assert history.epochs == [record for record in records if record["kind"] == "epoch"]
    assert [event["event"] for event in history.events] == ["start", "end"]


def test_a_number_that_is_not_finite_is_a_gap(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written = Journal(path)
    written.write([{"kind": "update", "update": n, "epoch": 1, "loss": loss} for n, loss in ((1, 0.5), (2, np.nan))])
    written.close()
    np.testing.assert_array_equal(load_history(path).updates["loss"], [0.5, np.nan])


def test_an_epochs_number_that_is_not_finite_is_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1, "update": 5, "train_loss": null}\n')
    (epoch,) = load_history(tmp_path / "metrics.jsonl").epochs
    assert math.isnan(epoch["train_loss"])
    assert epoch["update"] == 5


def test_a_run_that_has_just_begun_has_a_history(tmp_path):
    history = load_history(write(tmp_path / "metrics.jsonl", 0))
    assert all(len(column) == 0 for column in history.updates.values())


def test_a_last_line_that_is_cut_short_is_left_out(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 5)
    path.write_bytes(path.read_bytes() + b'{"kind": "update", "update": 6, "lo')
    assert load_history(path).updates["update"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("line", ['{"kind": "update", "loss": 1}', '{"kind": "update", "update": 3, oh}', "[]", "{}"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = write(tmp_path / "metrics.jsonl", 5)
    path.write_text(path.read_text().replace("\n", f"\n{line}\n", 2))
    with pytest.raises(SettingsError, match="line 2, is no record of a journal"):
        load_history(path)


def test_no_journal_is_no_run(tmp_path):
    with pytest.raises(SettingsError, match="is no run folder"):
        load_history(tmp_path / "metrics.jsonl")


def test_a_million_updates_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    numbers = {"loss": 2.301, "lr": 0.1, "momentum": 0.9, "grad_norm": 1.5, "images_per_second": 1000.0}
    rest = json.dumps(numbers)[1:]
    with path.open("w") as file:
        file.writelines(
            f'{{"kind": "update", "update": {n}, "epoch": {n // 1000}, {rest}\n' for n in range(1, 1_000_001)
        )
    updates = load_history(path).updates
    assert updates["update"].tolist() == list(range(1, 1_000_001))
    assert set(updates["loss"].tolist()) == {2.301}


def test_thinning_keeps_extremes_and_gaps():
    values = np.sin(np.arange(100_000) / 5000)
    values[[12_345, 23_456, 34_567]] = 9, -9, np.nan
    kept = thin(values, 1000)
    assert len(kept) <= 1000
    assert {0, 12_345, 23_456, 34_567} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert (
        np.abs(
            np.interp(np.arange(100_000), kept, np.nan_to_num(values[kept])) - np.sin(np.arange(100_000) / 5000)
        ).mean()
        < 0.05
    )


def test_what_is_short_is_not_thinned():
    assert thin(np.arange(10.0), 10).tolist() == list(range(10))
    assert thin(np.full(50, np.nan), 12).tolist()
