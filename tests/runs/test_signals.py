"""Signals at any moment, under each launcher: everything is saved, and the same command goes on bit for bit."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import (
    ROOT,
    TRAIN,
    command,
    environment,
    follow,
    hashes,
    journal,
    pids,
    run,
    start_train,
    train,
    updates,
    wait_until_gone,
)

FLAGS = ("--data", "synthetic", "--train-images", 2048, "--test-images", 500, "--model", "simplecnn", "--width", 16)
FLAGS = (*FLAGS, "--batch-size", 16, "--epochs", 4, "--log-every", 1, "--save-every", 7, "--wandb=off", "--no-report")
OURS = f'File "{ROOT}/distrib'  # in a traceback; launchers print some of their own
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def launcher(name, world):
    if name == "accelerate":
        return [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes=1", str(TRAIN)]
    return command(TRAIN, world)


WORLDS = {"accelerate": 1, "torchrun": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of a launcher that nothing disturbs."""

    def make(name):
        out, world = tmp_path_factory.mktemp(name), WORLDS[name]
        run([*launcher(name, world), *map(str, FLAGS), "--out", str(out), "--name", "whole"])
        (started,) = (record for record in journal(out / "whole") if record.get("event") == "start")
        assert started["world_size"] == world
        return out / "whole"

    return make


def start(name, flags):
    return subprocess.Popen(
        [*launcher(name, WORLDS[name]), *map(str, flags)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def stops(folder):
    return [record for record in journal(folder) if record.get("event") == "stop"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_asked_to_stop_at_random_moments_nothing_is_lost(whole, tmp_path, name):
    flags, folder = (*FLAGS, "--out", tmp_path, "--name", "asked"), tmp_path / "asked"
    draws, done = random.Random(name), 0
    for count, number in enumerate(draws.sample(SIGNALS, 3), 1):
        moment = done + draws.randint(2, 60)
        process = start(name, flags)
        follow(process, folder, lambda record, moment=moment: record.get("update", 0) >= moment)
        ranks = pids(folder)
        assert set(ranks) == set(range(WORLDS[name]))
        if number == signal.SIGTERM:
            process.send_signal(number)  # to the launcher alone, as `kill` does
        else:
            os.killpg(process.pid, number)  # to all that a terminal or a cluster knows of
        text, _ = process.communicate(timeout=60)
        wait_until_gone(ranks.values())
        assert process.returncode != 0
        assert len(stops(folder)) == count, text
        stop = stops(folder)[-1]
        assert stop["exit_code"] == 75
        done = stop["update"]
        assert done == updates(folder)[-1]["update"] >= moment
        assert OURS not in text, text
    run([*launcher(name, WORLDS[name]), *map(str, flags)])
    resumed = [record["update"] for record in journal(folder) if record.get("event") == "resume"]
    assert resumed == [stop["update"] for stop in stops(folder)]
    assert [record["update"] for record in updates(folder)] == list(range(1, 513))
    assert hashes(folder) == hashes(whole(name))


@pytest.mark.parametrize("number", [SIGNALS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in SIGNALS[1:])])
def test_in_an_evaluation_it_stops_before_the_evaluation_ends(tmp_path, number):
    flags = (*FLAGS, "--test-images", 40000, "--out", tmp_path, "--name", "evaluating")
    process = start_train(*flags)
    follow(process, tmp_path / "evaluating", lambda record: record.get("update", 0) == 128)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert [record for record in journal(tmp_path / "evaluating") if record["kind"] == "epoch"] == []
    stop = journal(tmp_path / "evaluating")[-1]
    assert (stop["event"], stop["update"], stop["epoch"]) == ("stop", 128, 0)
    assert "update-000000128" in {path.name for path in (tmp_path / "evaluating" / "checkpoints").iterdir()}


@pytest.mark.parametrize("world", [1, 2])
def test_while_it_starts_it_leaves_at_once(tmp_path, world):
    flags = (*FLAGS, "--train-images", 100_000, "--out", tmp_path, "--name", "starting")  # minutes of preparation
    process = start_train(*flags, world=world)
    beats = tmp_path / "starting" / "heartbeats"
    while len(list(beats.glob("rank-*.json"))) < world:
        assert process.poll() is None, process.stdout.read()
    ranks = pids(tmp_path / "starting")
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    wait_until_gone(ranks.values())
    if world == 1:
        assert process.returncode == 75, text
    assert text.count("Stopped by SIGTERM before the first update: nothing is lost.") == 1, text
    assert OURS not in text, text


@pytest.mark.slow
def test_saving_is_no_time_to_lose_what_is_saved(tmp_path):
    """Saves after every update: wherever the signal comes, one is under way."""
    flags = (*FLAGS, "--test-images", 64, "--save-every", 1, "--out", tmp_path, "--name", "saving")
    process = start_train(*flags)
    follow(process, tmp_path / "saving", lambda record: record.get("update", 0) >= 30)
    process.send_signal(signal.SIGUSR2)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    stop = journal(tmp_path / "saving")[-1]
    train(*flags[:-1], "saving", "--wandb=off", "--no-report")
    resumed = [record["update"] for record in journal(tmp_path / "saving") if record.get("event") == "resume"]
    assert resumed == [stop["update"]]
