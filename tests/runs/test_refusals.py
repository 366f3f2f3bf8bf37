"""What a run refuses, and what it understands all the same."""

import os
import signal

from PIL import Image

from tests.launching import follow, journal, run, start_train, train

SMALL = ("--model", "simplecnn", "--width", 4)


def pictures(root, count):
    for split in ("train", "test"):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (200 * label + number,) * 3).save(root / split / name / f"{number}.png")


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    pictures(tmp_path / "tree", 40)
    flags = (*SMALL, "--data", f"folder:{tmp_path / 'tree'}", "--batch-size", 4, "--epochs", 500, "--log-every", 1)
    flags = (*flags, "--save-every", 2, "--out", tmp_path, "--name", "tree")
    process = start_train(*flags)
    follow(process, tmp_path / "tree", lambda record: record.get("update", 0) >= 5)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    pictures(tmp_path / "tree", 60)
    done = train(*flags, expect=2)
    assert "is not the one that" in done.stderr
    assert "train_images" in done.stderr


def test_auto_means_what_it_meant_when_the_run_began(tmp_path):
    flags = (*SMALL, "--epochs", 1, "--data-root", tmp_path / "none", "--out", tmp_path, "--name", "auto")
    train(*flags, ACCELERATE_MIXED_PRECISION="no")
    done = train(*flags, ACCELERATE_MIXED_PRECISION="bf16")  # another launcher, which says something else
    assert "is finished" in done.stdout
    assert "NOTE" not in done.stdout


def test_weights_that_cannot_be_downloaded_are_refused_on_all_ranks_together(tmp_path):
    flags = ("--data", "digits", "--image-size", 64, "--model", "torchvision/resnet18", "--pretrained")
    done = train(*flags, "--out", tmp_path, world=2, expect=1, TORCH_HOME=str(tmp_path / "hub"))  # torchrun's own code
    assert done.stderr.count("cannot download the weights") == 1
    assert "Connection closed" not in done.stderr


def test_a_run_of_one_precision_is_evaluated_in_another(tmp_path):
    train(*SMALL, "--data", "digits", "--epochs", 1, "--precision", "bf16", "--out", tmp_path, "--name", "half")
    done = run(["distrib", "evaluate", str(tmp_path / "half"), "--precision", "fp32", "--device", "cpu"])
    assert "359" in done.stdout
    assert journal(tmp_path / "half")[-1]["event"] == "end"
