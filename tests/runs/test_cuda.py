"""What holds on a GPU."""

import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from distrib.images.augmentation import BatchAugmentation
from tests.launching import follow, hashes, journal, run, start_train, train, updates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

QUICK = ("--device", "cuda", "--data", "digits", "--model", "resnet20", "--batch-size", 64, "--epochs", 2)

# Trains while torch raises wherever the program would wait for the GPU in an update, but for the first few, in which
# libraries set themselves up.
UNAWAITED = """
import sys
import torch
from distrib import train
from distrib.learning.engine import Trainer

whole = Trainer.train_step

def train_step(self, batches):
    torch.cuda.set_sync_debug_mode("error" if self.state.progress.update >= 3 else "default")
    try:
        whole(self, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")

Trainer.train_step = train_step
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns(tmp_path, precision):
    flags = (*QUICK, "--clip-norm", 1, "--clip-value", 0.5, "--ema-decay", 0.9, "--precision", precision)
    train(*flags, "--out", tmp_path, "--name", "gpu")
    epochs = [record for record in journal(tmp_path / "gpu") if record["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("exact", ["--no-exact", "--exact"])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, precision, exact):
    flags = (*QUICK, exact, "--precision", precision, "--log-every", 1, "--out", tmp_path)
    train(*flags, "--name", "whole")
    process = start_train(*flags, "--name", "parted")
    follow(process, tmp_path / "parted", lambda record: record.get("update", 0) >= 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert len(updates(tmp_path / "parted")) < len(updates(tmp_path / "whole"))
    train(*flags, "--name", "parted")
    assert hashes(tmp_path / "parted") == hashes(tmp_path / "whole")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_learns_with_muon_and_growing_images(tmp_path, precision):
    flags = ("--optimizer", "muon", "--lr", 0.05, "--image-size", 16, "--start-size", 8, "--precision", precision)
    train(*QUICK, *flags, "--out", tmp_path, "--name", "gpu")
    epochs = [record for record in journal(tmp_path / "gpu") if record["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]


def test_every_size_is_compiled(tmp_path):
    """More of them than dynamo compiles by itself: it would run the rest uncompiled, but for the first of a restart."""
    flags = ("--model", "simplecnn", "--image-size", 48, "--start-size", 16, "--compile", "default", "--log-every", 1)
    whole = train(*QUICK, *flags, "--out", tmp_path, "--name", "whole")
    assert "recompile_limit" not in whole.stderr
    process = start_train(*QUICK, *flags, "--out", tmp_path, "--name", "parted")
    follow(process, tmp_path / "parted", lambda record: record.get("update", 0) >= 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert 30 <= len(updates(tmp_path / "parted")) < len(updates(tmp_path / "whole"))
    train(*QUICK, *flags, "--out", tmp_path, "--name", "parted")
    assert hashes(tmp_path / "parted") == hashes(tmp_path / "whole")


def test_with_cuda_graphs_it_learns_the_same(tmp_path):
    for mode in ("none", "reduce-overhead"):
        train(*QUICK, "--precision", "fp32", "--lr", 0.01, "--compile", mode, "--out", tmp_path, "--name", mode)
    plain, graphs = ([record["loss"] for record in updates(tmp_path / name)] for name in ("none", "reduce-overhead"))
    assert graphs == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_an_update_does_not_wait_for_the_gpu(tmp_path, precision, loading):
    flags = (*QUICK, "--clip-norm", 1, "--ema-decay", 0.9, "--precision", precision, "--loading", loading)
    script = [sys.executable, "-c", UNAWAITED, *map(str, flags), "--out", str(tmp_path), "--name", "gpu"]
    run([*script, "--wandb=off", "--no-report", "--epochs", "1"])
    assert len(updates(tmp_path / "gpu")) > 10


def test_prefetched_batches_are_those_of_memory(tmp_path):
    for loading in ("memory", "workers"):
        train(*QUICK, "--loading", loading, "--out", tmp_path, "--name", loading)
    assert hashes(tmp_path / "memory") == hashes(tmp_path / "workers")


def test_a_bad_image_is_named_after_the_update_before_it(tmp_path):
    """With one batch copied ahead, it is the next update that must not be made, not the one that waits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 8)):
        for index in range(count):
            place = tmp_path / "images" / split / f"class {index % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(place / f"{index:03}.png")
    bad = tmp_path / "images/train/class 0/032.png"
    bad.write_bytes(b"no image")
    flags = ("--data", f"folder:{tmp_path / 'images'}", "--model", "simplecnn", "--batch-size", 8, "--crop", "resized")
    for device in ("cpu", "cuda"):
        done = train(*flags, "--device", device, "--log-every", 1, "--out", tmp_path, "--name", device, expect=1)
        assert str(bad) in done.stderr
    made = {device: [record["update"] for record in updates(tmp_path / device)] for device in ("cpu", "cuda")}
    assert made["cuda"] == made["cpu"]
    assert made["cpu"], "the bad image came first: the test shows nothing"


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_images_are_varied_as_on_a_cpu(flip):
    pixels = torch.randint(256, (64, 32, 32, 3), dtype=torch.uint8)
    indices = torch.arange(1000, 1064)
    augment = BatchAugmentation(seed=3, padding=4, reflect=True, flip=flip, cutout=8)
    there = augment(pixels.cuda(), indices, 5)
    assert torch.equal(there.cpu(), augment(pixels, indices, 5))
