"""Weights & Biases, by the files it really writes."""

import signal

import pytest

from tests.launching import follow, start_train, train, updates
from tests.wandb_files import history

FLAGS = ("--data", "synthetic", "--train-images", 1024, "--test-images", 64, "--model", "simplecnn", "--width", 8)
FLAGS = (*FLAGS, "--batch-size", 16, "--epochs", 2, "--log-every", 3, "--save-every", 10, "--wandb", "offline")


def steps(rows, name):
    return [row["update"] for row in rows if name in row]


def test_two_processes_make_one_run(tmp_path):
    train(*FLAGS, "--out", tmp_path, "--name", "two", world=2)
    (rows,) = history(tmp_path / "two").values()
    assert steps(rows, "train/loss") == list(range(1, 129))
    logged = {row["update"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert logged == {record["update"]: record["loss"] for record in updates(tmp_path / "two")}
    assert steps(rows, "epoch/test_top1") == [64, 128]


def test_a_run_that_was_interrupted_and_went_on_is_one_run_with_no_step_twice(tmp_path):
    flags = (*FLAGS, "--out", tmp_path, "--name", "twice")
    process = start_train(*flags)
    follow(process, tmp_path / "twice", lambda record: record.get("update", 0) >= 25)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    train(*flags)
    (rows,) = history(tmp_path / "twice").values()
    found = steps(rows, "train/loss")
    assert len(found) == len(set(found))
    assert found == sorted(found)
    assert set(range(70, 129)) <= set(found)


@pytest.mark.slow
def test_an_unreachable_server_never_stops_a_run(tmp_path):
    flags = (*FLAGS[:-1], "online", "--epochs", 1, "--out", tmp_path, "--name", "alone")
    done = train(*flags, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stderr.count("W&B") >= 1
    assert [record["update"] for record in updates(tmp_path / "alone")] == list(range(1, 65))
    for file in (tmp_path / "alone").rglob("*"):
        assert not file.is_file() or b"0" * 40 not in file.read_bytes()
