"""What can happen to a run: ranks that die or hang, full disks, numbers that are none, files that rot, rivals."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

from tests.launching import (
    ROOT,
    TRAIN,
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

FLAGS = ("--data", "synthetic", "--train-images", 1024, "--test-images", 64, "--model", "simplecnn", "--width", 8)
FLAGS = (*FLAGS, "--batch-size", 16, "--epochs", 2, "--log-every", 3, "--save-every", 10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    train(*FLAGS, "--out", out, "--name", "whole")
    return out / "whole"


def events(folder, kind):
    return [record for record in journal(folder) if record.get("event") == kind]


def losses(folder):
    return [(record["update"], record["loss"]) for record in updates(folder)]


@pytest.mark.parametrize(
    ("rank", "world", "way"),
    [(0, 2, "--no-exact"), (1, 2, "--no-exact"), pytest.param(1, 4, "--exact", marks=pytest.mark.slow)],
)
def test_a_rank_that_dies_brings_the_others_down_with_one_message(tmp_path, rank, world, way):
    process = start_train(*FLAGS, way, "--epochs", 50, "--out", tmp_path, "--name", "killed", world=world)
    follow(process, tmp_path / "killed", lambda record: record.get("update", 0) >= 25)
    ranks = pids(tmp_path / "killed")
    assert set(ranks) == set(range(world))
    os.kill(ranks[rank], signal.SIGKILL)
    text, _ = process.communicate(timeout=30)
    wait_until_gone(ranks.values())
    assert process.returncode == 1
    assert text.count("error: ") == text.count(f"error: rank {rank} (process {ranks[rank]} on ") == 1, text
    assert "in train_step" not in text  # no traceback of the one that was left


def test_a_rank_that_is_stopped_is_named_and_the_run_ends(tmp_path):
    flags = (*FLAGS, "--epochs", 50, "--hang-timeout", 5)
    process = start_train(*flags, "--out", tmp_path, "--name", "stopped", world=2)
    follow(process, tmp_path / "stopped", lambda record: record.get("update", 0) >= 25)
    ranks = pids(tmp_path / "stopped")
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGSTOP)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    (told,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "the run hangs: rank 1 on " in told
    assert "gives no sign of life for " in told
    assert "the others wait in " in told
    assert "in train_step" in text or "in report" in text  # the stack of the other
    wait_until_gone(ranks.values())


@pytest.mark.slow
def test_a_rank_that_waits_for_its_images_is_named(tmp_path):
    flags = (*FLAGS, "--epochs", 50, "--hang-timeout", 5, "--loading", "workers", "--workers", 1)
    process = start_train(*flags, "--out", tmp_path, "--name", "hangs", world=2)
    follow(process, tmp_path / "hangs", lambda record: record.get("update", 0) >= 25)
    ranks = pids(tmp_path / "hangs")
    assert set(ranks) == {0, 1}
    workers = Path(f"/proc/{ranks[1]}/task/{ranks[1]}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signal.SIGSTOP)
    process.wait(timeout=60)
    for worker in workers:  # they would end by themselves if they could, and hold the pipe open
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(worker), signal.SIGKILL)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    (told,) = (line for line in text.splitlines() if line.startswith("error: "))
    found = re.search(r"the run hangs: rank 1 on \S+ in data loading \(update (\d+)\) for \d+ s, the others wait", told)
    assert found, told
    assert f"the others wait in update {found[1]} for " in told
    assert "in next_share" in text  # where rank 1 is
    assert "in train_step" in text  # where rank 0 is
    wait_until_gone(ranks.values())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    """Leave no room on a disk."""
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_on_a_full_disk_a_run_goes_on_says_so_and_stops_when_asked(small_disk):
    flags = (*FLAGS, "--epochs", 50, "--out", small_disk, "--name", "full")
    process = start_train(*flags)
    follow(process, small_disk / "full", lambda record: record.get("event") == "checkpoint")
    fill(small_disk)
    warnings = (line for line in process.stdout if "WARNING: the checkpoint of update" in line)
    assert next(warnings) != next(warnings)  # it says so each time, and goes on
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    (small_disk / "filler").unlink()
    process = start_train(*flags)
    follow(process, small_disk / "full", lambda record: record.get("event") == "resume")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    found = [record["update"] for record in updates(small_disk / "full")]
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_finished_run_that_could_not_be_saved_is_not_called_finished(small_disk, whole, world):
    flags = (*FLAGS, "--out", small_disk, "--name", "full")
    process = start_train(*flags, world=world)
    follow(process, small_disk / "full", lambda record: record.get("event") == "checkpoint")
    fill(small_disk)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f'File "{ROOT}/distrib' not in text  # no traceback of ours
    assert "WARNING: the checkpoint of update" in text
    assert text.count("error: the checkpoint of update 128 could not be written") == 1
    assert "No space left on device" in text
    assert not list((small_disk / "full" / "checkpoints").glob(".partial-*"))
    (small_disk / "filler").unlink()
    if world == 1:
        train(*flags)
        assert hashes(small_disk / "full") == hashes(whole)
        assert losses(small_disk / "full") == losses(whole)


def test_an_output_that_nobody_can_read_does_not_stop_a_run(tmp_path, whole):
    command = [
        sys.executable,
        str(TRAIN),
        "--wandb=off",
        "--no-report",
        *map(str, FLAGS),
        "--out",
        str(tmp_path),
        "--name",
        "mute",
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=full, stderr=full, check=False, timeout=120)
    assert done.returncode == 0
    assert hashes(tmp_path / "mute") == hashes(whole)


@pytest.mark.slow
def test_stopped_in_an_evaluation_then_killed_after_it_the_epoch_is_there_once(tmp_path):
    """A checkpoint from before an evaluation, and a journal from after it."""
    flags = (*FLAGS, "--out", tmp_path, "--name", "twice")
    process = start_train(*flags, "--test-images", 40_000)
    follow(process, tmp_path / "twice", lambda record: record.get("update", 0) == 64)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert journal(tmp_path / "twice")[-1]["update"] == 64
    checkpoint = tmp_path / "twice" / "checkpoints" / "update-000000064"
    shutil.copytree(checkpoint, tmp_path / "kept")
    train(*flags, "--test-images", 40_000)
    shutil.rmtree(tmp_path / "twice" / "checkpoints")
    shutil.copytree(tmp_path / "kept", checkpoint)  # as if the later ones had not stood yet when it was killed
    train(*flags, "--test-images", 40_000)
    assert [r["epoch"] for r in journal(tmp_path / "twice") if r["kind"] == "epoch"] == [1, 2]
    best = [r["epoch"] for r in events(tmp_path / "twice", "best")]
    assert len(best) == len(set(best))


def test_a_disk_that_is_full_from_the_start_ends_the_run_with_a_message(small_disk):
    fill(small_disk)
    done = train(*FLAGS, "--out", small_disk, "--name", "full", expect=2)
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_cannot_have_one_run_folder(tmp_path):
    flags = (*FLAGS, "--epochs", 50, "--out", tmp_path, "--name", "one")
    first = start_train(*flags)
    follow(first, tmp_path / "one", lambda record: record.get("update", 0) >= 5)
    second = train(*flags, expect=2)
    assert f"is in use by process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    first.send_signal(signal.SIGTERM)
    text, _ = first.communicate(timeout=60)
    assert first.returncode == 75, text
    assert len(events(tmp_path / "one", "start")) == 1


def test_a_run_that_diverges_exits_3_and_says_where(tmp_path):
    flags = (*FLAGS, "--lr", 1e20, "--schedule", "constant", "--out", tmp_path, "--name", "up")
    done = train(*flags, expect=3)
    assert done.stderr.count("is not finite: loss ") == 1
    assert "Traceback" not in done.stderr
    event = events(tmp_path / "up", "diverged")[0]
    assert len(event["images"]) == 16
    assert journal(tmp_path / "up")[-1]["exit_code"] == 3


def test_too_many_bad_updates_in_a_row_end_a_run_that_skips_them(tmp_path):
    flags = (*FLAGS, "--lr", 1e20, "--schedule", "constant", "--on-divergence", "skip", "--max-bad-updates", 7)
    done = train(*flags, "--out", tmp_path, "--name", "up", expect=3)
    assert "in a row" in done.stderr
    assert len(events(tmp_path / "up", "skip")) < 7 + 3
    assert events(tmp_path / "up", "diverged")


def truncate(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def empty(file):
    file.write_bytes(b"")


AGAIN = """
import sys
from distrib.train import main
flags, names = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
for name in names:
    assert main([*flags, "--name", name]) == 0, name
"""


@pytest.mark.slow
def test_whatever_file_of_the_newest_checkpoint_rots_the_next_older_one_is_used(tmp_path):
    flags = (*FLAGS, "--epochs", 1, "--ema-decay", 0.9, "--out", tmp_path)
    train(*flags, "--name", "whole")
    process = start_train(*flags, "--name", "cut", "--epochs", 1)
    follow(process, tmp_path / "cut", lambda r: r.get("event") == "checkpoint" and r["update"] >= 30)
    process.kill()
    process.communicate()
    older, newest = sorted((tmp_path / "cut" / "checkpoints").glob("update-*"))
    files = sorted(file.name for file in newest.iterdir())
    assert files == ["ema.safetensors", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    damages = cycle((truncate, flip, empty, Path.unlink))
    cases = {f"{damage.__name__}-{file}": (damage, file) for damage, file in zip(damages, files, strict=False)}
    for name, (damage, file) in cases.items():
        shutil.copytree(tmp_path / "cut", tmp_path / name)
        damage(tmp_path / name / "checkpoints" / newest.name / file)
    done = run([sys.executable, "-c", AGAIN, *map(str, flags), "--wandb=off", "--no-report", "--", *cases])
    assert done.stderr.count(f"checkpoint {newest.name} is damaged") == len(cases) == 5
    for name in cases:
        (resumed,) = events(tmp_path / name, "resume")
        assert resumed["update"] == int(older.name.removeprefix("update-"))
        assert (tmp_path / name / "checkpoints" / f"damaged-{newest.name}").is_dir()
        assert hashes(tmp_path / name) == hashes(tmp_path / "whole"), name
        assert losses(tmp_path / name) == losses(tmp_path / "whole"), name


def test_checkpoints_by_time_and_those_that_stay(tmp_path):
    flags = (*FLAGS, "--save-every", 1000, "--save-every-minutes", 0.0001, "--keep", 3, "--keep-every", 64)
    train(*flags, "--out", tmp_path, "--name", "kept")
    saved = [record["update"] for record in events(tmp_path / "kept", "checkpoint")]
    assert len(saved) > 10  # every few milliseconds
    assert saved == sorted(set(saved))
    best = max((r for r in journal(tmp_path / "kept") if r["kind"] == "epoch"), key=lambda r: r["test_top1"])["update"]
    left = [int(path.name.removeprefix("update-")) for path in (tmp_path / "kept" / "checkpoints").iterdir()]
    assert sorted(left) == sorted({*saved[-3:], 64, 128, best})
