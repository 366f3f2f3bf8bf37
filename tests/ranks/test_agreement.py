"""Processes that were not given the same: all of them say so, and end, before anything is trained."""

import json
from pathlib import Path

import pytest

from tests.launching import command, run

WORKER = Path(__file__).with_name("preflight_worker.py")
WORLD = 2


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[dict]:
    """By rank, what it was told."""
    out = tmp_path_factory.mktemp("agreement")
    run([*command(WORKER, WORLD), str(out)])
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert [rank["num_processes"] for rank in ranks] == [WORLD] * WORLD
    return ranks


@pytest.mark.parametrize("case", ["nothing", "own"])
def test_ranks_that_were_given_the_same_agree(seen, case):
    assert [rank[case] for rank in seen] == [{"notes": []}] * WORLD


REFUSED = {
    "lr": ("rank 1 on host", "has --lr 0.2 where rank 0 on host", "has 0.1. Start every process with the same flags"),
    "torch": ("rank 1 on host", "has torch 1.13.1 where rank 0", "Install the same versions on every host"),
    "python": ("rank 1 on host", "has Python 3.99 where rank 0", "Install the same versions on every host"),
    "code": ("rank 1 on host", "has code of SHA-256", "Bring distrib to the same version on every host"),
    "code and commit": ("rank 1 on host", "has code of SHA-256", "has commit f00d+ where rank 0"),
    "folder": ("rank 1 on host", "cannot read what rank 0 on host", "Put --out on a file system that all hosts share"),
    "unwritable": ("cannot write to", "file/runs: Not a directory", "Choose another --out"),
    "data": ("rank 1 on host", "has training images 140 where rank 0", "Give every host the same copy of the data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rank_that_differs_is_named_on_all_ranks_with_what_to_do(seen, case):
    text, *others = [rank[case]["refused"] for rank in seen]
    assert others == [text] * (WORLD - 1)
    for part in REFUSED[case]:
        assert part in text


def test_a_refusal_names_nothing_that_is_equal(seen):
    assert seen[0]["lr"]["refused"].count("where rank 0") == 1
    assert "--precision" not in seen[0]["lr"]["refused"]
    assert "test images" not in seen[0]["data"]["refused"]


def test_another_commit_of_the_same_code_and_other_threads_are_but_notes(seen):
    for rank in seen:
        (commit,), (threads,) = rank["commit"]["notes"], rank["threads"]["notes"]
        assert "rank 1 on host" in commit
        assert "has commit f00d+ where rank 0" in commit
        assert "has CPU threads 77 where rank 0" in threads
        assert threads.endswith("all wait for the slowest")


def test_nothing_is_left_behind(seen):
    assert [rank["left behind"] for rank in seen] == [["file"]] * WORLD


@pytest.mark.parametrize("flags", ["--lr 0.2", "--lr 0.2 --seed 3"])
def test_a_run_ends_on_all_ranks_with_one_message_and_code_2(tmp_path, flags):
    done = run([*command(WORKER, WORLD), str(tmp_path), "train", "--device", "cpu"], ODD_FLAGS=flags)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert ranks == [{"num_processes": WORLD, "code": 2}] * WORLD
    assert done.stderr.count("error:") == 1
    assert "rank 1" in done.stderr
    assert "has --lr 0.2 where rank 0" in done.stderr
    assert "has 0.1" in done.stderr
    assert ("--seed 3 where rank 0" in done.stderr) == ("--seed" in flags)
