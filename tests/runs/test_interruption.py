"""Runs that are interrupted, and go on as if they had not been."""

import contextlib
import os
import signal

import pytest

from tests.launching import follow, hashes, journal, pids, start_train, train, updates, wait_until_gone

FLAGS = ("--data", "synthetic", "--train-images", 1024, "--test-images", 64, "--model", "simplecnn", "--width", 8)
FLAGS = (*FLAGS, "--batch-size", 16, "--micro-batch", 5, "--epochs", 2, "--ema-decay", 0.99, "--clip-norm", 1)
FLAGS = (*FLAGS, "--log-every", 3, "--save-every", 10, "--flip", "random", "--schedule", "onecycle")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """By number of processes, the hashes and numbers of a run that nothing interrupts."""
    found = {}
    for world in (1, 2):
        out = tmp_path_factory.mktemp(f"whole-{world}")
        train(*FLAGS, "--out", out, "--name", "whole", world=world)
        found[world] = out / "whole"
    return found


def numbers(folder):
    return [(record["update"], record["loss"], record["grad_norm"], record["lr"]) for record in updates(folder)]


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_in_an_epoch_the_same_command_goes_on_bit_for_bit(uninterrupted, tmp_path, world):
    flags = (*FLAGS, "--out", tmp_path, "--name", "killed")
    process = start_train(*flags, world=world)
    follow(process, tmp_path / "killed", lambda record: record.get("event") == "checkpoint" and record["update"] >= 20)
    ranks = pids(tmp_path / "killed")
    assert set(ranks) == set(range(world))
    for pid in (*ranks.values(), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until_gone(ranks.values())
    done = train(*flags, world=world)
    resumed = [r for r in journal(tmp_path / "killed") if r.get("event") == "resume"]
    assert len(resumed) == 1
    assert resumed[0]["update"] >= 20
    assert resumed[0]["update"] % 10 == 0 or resumed[0]["update"] == 64  # saved every ten, and after the epoch
    assert f"update {resumed[0]['update']}" in done.stdout
    assert [record["update"] for record in updates(tmp_path / "killed")] == list(range(1, 129))
    assert numbers(tmp_path / "killed") == numbers(uninterrupted[world])
    assert hashes(tmp_path / "killed") == hashes(uninterrupted[world])


@pytest.mark.parametrize("name", ["SIGUSR2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGTERM"))])
def test_asked_to_stop_it_saves_and_exits_75(uninterrupted, tmp_path, name):
    flags = (*FLAGS, "--out", tmp_path, "--name", "asked")
    process = start_train(*flags)
    follow(process, tmp_path / "asked", lambda record: record.get("update", 0) >= 5)
    process.send_signal(signal.Signals[name])
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 75, text
    assert "--name asked" in text  # how to go on
    stop = journal(tmp_path / "asked")[-1]
    assert (stop["event"], stop["signal"], stop["exit_code"]) == ("stop", name, 75)
    assert stop["update"] == updates(tmp_path / "asked")[-1]["update"]
    train(*flags)
    resumed = [record for record in journal(tmp_path / "asked") if record.get("event") == "resume"]
    assert resumed[0]["update"] == stop["update"]  # not one update was lost
    assert hashes(tmp_path / "asked") == hashes(uninterrupted[1])


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_update(uninterrupted, tmp_path):
    flags = (*FLAGS, "--out", tmp_path, "--name", "both")
    process = start_train(*flags, world=2)
    follow(process, tmp_path / "both", lambda record: record.get("update", 0) >= 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0  # torchrun's own
    stop = journal(tmp_path / "both")[-1]
    assert (stop["event"], stop["exit_code"]) == ("stop", 75)
    train(*flags, world=2)
    assert hashes(tmp_path / "both") == hashes(uninterrupted[2])
    assert numbers(tmp_path / "both") == numbers(uninterrupted[2])


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(uninterrupted, tmp_path):
    flags = (*FLAGS, "--out", tmp_path, "--name", "damaged")
    process = start_train(*flags)
    follow(process, tmp_path / "damaged", lambda record: record.get("update", 0) >= 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    newest = max((tmp_path / "damaged" / "checkpoints").glob("update-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    done = train(*flags)
    assert f"checkpoint {newest.name} is damaged" in done.stderr
    assert hashes(tmp_path / "damaged") == hashes(uninterrupted[1])
