"""Storms: runs killed with kill -9 again and again, at any moment, end with the bits of the run that nothing killed."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.launching import hashes, journal, pids, start_train, train, updates, wait_until_gone
from tests.wandb_files import history

SMALL = ("--model", "simplecnn", "--width", 8, "--epochs", 4, "--log-every", 3, "--save-every", 4, "--keep", 3)
PER_EPOCH = 48  # updates, of each data set
SYNTHETIC = ("--data", "synthetic", "--train-images", 768, "--test-images", 300, *SMALL, "--batch-size", 16)
CASES = {
    "bf16": ("--precision", "bf16", "--ema-decay", 0.99, "--clip-norm", 1, "--micro-batch", 3, "--optimizer", "adamw"),
    "sgd": ("--precision", "fp32", "--clip-norm", 0.5, "--nesterov", "--schedule", "plateau", "--plateau-patience", 0),
}
LIMIT = 120  # seconds that a run may take to reach the point at which it is killed


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """960 images of several sizes, in two classes, which are decoded as they are needed."""
    root, draws = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 384), ("test", 48)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = draws.integers(70, 110, 2)
                pixels = draws.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((width, height)).save(root / split / name / f"{number:03}.jpg")
    return root


def decoding(root):
    """Flags that decode in two workers, with crops and an automatic augmentation."""
    varied = ("--policy", "trivialaugment", "--crop", "resized", "--flip", "random", "--cutout", 9)
    loaded = ("--data", f"folder:{root}", "--image-size", 65, "--workers", 2, "--batch-size", 16, "--ema-decay", 0.9)
    return (*SMALL, *loaded, *varied)


class Storm:
    """Kills a run, at moments drawn from a seed, so many times."""

    def __init__(self, folder, world, seed):
        self.folder, self.world, self.draws = folder, world, random.Random(seed)
        self.killed = []
        """Where each kill came: (what was aimed at, the last update in the journal)."""

    def strike(self, flags, aim):
        """Start the run, wait until it is at what is aimed at, and kill one rank or all of them."""
        shutil.rmtree(self.folder / "heartbeats", ignore_errors=True)  # of processes that are no more
        place = ("--out", self.folder.parent, "--name", self.folder.name, "--wandb", "offline")
        process = start_train(*flags, *place, world=self.world)
        try:
            if self.arrived(process, aim):
                self.kill(process)
                self.killed.append((aim, self.reached()[0]))
        finally:
            process.stdout.close()
            process.wait(timeout=60)
            wait_until_gone(pids(self.folder).values())

    def arrived(self, process, aim):
        """Whether the run came to what is aimed at before it ended."""
        saved = max((int(path.name[-9:]) for path in (self.folder / "checkpoints").glob("update-*")), default=0)
        target, end = saved + self.draws.randint(2, 14), time.monotonic() + LIMIT
        while process.poll() is None:
            assert time.monotonic() < end, f"the run never came to {aim}"
            if self.is_at(aim, target):
                break
            time.sleep(0.001)
        time.sleep(self.draws.random() * 0.03)  # a random moment is what is wanted here
        return process.poll() is None

    def is_at(self, aim, target):
        """Whether the run is at what is aimed at; for an update, beyond ``target``."""
        if len(pids(self.folder)) < self.world:  # what is seen now is of a process before
            return False
        if aim == "start":
            return True
        if aim == "save":
            return any((self.folder / "checkpoints").glob(".partial-*"))
        update, epochs = self.reached()
        return update >= target if aim == "update" else update == (epochs + 1) * PER_EPOCH

    def kill(self, process):
        """Kill one rank, and so all, or all at once."""
        ranks = list(pids(self.folder).values())
        victims = ranks if self.draws.random() < 0.5 else [self.draws.choice(ranks)]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if len(victims) == len(ranks):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def reached(self):
        """The last update and the number of epochs in the journal."""
        file = self.folder / "metrics.jsonl"
        text = file.read_text() if file.exists() else ""
        records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        done = [record["update"] for record in records if record["kind"] == "update"]
        return max(done, default=0), sum(record["kind"] == "epoch" for record in records)


def weather(folder, world, seed, kills, flags):
    """The storm, until the run is finished; all that must be the same afterwards is."""
    whole = folder.with_name(f"{folder.name}-whole")
    train(*flags, "--out", whole.parent, "--name", whole.name, world=world)
    storm = Storm(folder, world, seed)
    aims = ["update", "evaluation", "save", "start"]
    for number in range(kills):
        storm.strike(flags, aims[number % len(aims)])
    assert len(storm.killed) == kills, f"only {storm.killed} met a run that was under way"
    train(*flags, "--out", folder.parent, "--name", folder.name, "--wandb", "offline", world=world)
    begun = [record for record in journal(folder) if record.get("event") in ("start", "resume")]
    assert {record["world_size"] for record in begun} == {world}
    assert sum(record["event"] == "resume" for record in begun) >= kills / 2, storm.killed
    assert hashes(folder) == hashes(whole), storm.killed
    assert [record["update"] for record in updates(folder)] == list(range(1, len(updates(whole)) + 1))
    for name in ("loss", "grad_norm", "lr"):
        assert [r[name] for r in updates(folder)] == [r[name] for r in updates(whole)], storm.killed
    scores = [[r for r in journal(f) if r["kind"] == "epoch"] for f in (folder, whole)]
    assert [r["test_loss"] for r in scores[0]] == [r["test_loss"] for r in scores[1]]
    assert len(history(folder)) == 1  # one run of W&B


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("case", "world", "kills"), [("bf16", 1, 6), ("sgd", 2, 6), ("bf16", 4, 5), ("sgd", 4, 4)])
def test_a_storm(tmp_path, case, world, kills):
    weather(tmp_path / "run", world, world, kills, (*SYNTHETIC, *CASES[case]))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("world", "kills"), [(1, 4), (2, 4)])
def test_a_storm_over_decoded_images(tmp_path, photographs, world, kills):
    weather(tmp_path / "run", world, 7, kills, decoding(photographs))
